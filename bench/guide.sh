#!/bin/sh
# The script of Deepgram's guide for airgapped sites, as its CronJob runs it, with three changes:
# nothing is installed (that is not timed), the directories are arguments, and the copy goes to a
# mounted directory, as the guide's note for fully airgapped environments says.
#
#     guide.sh MNT TMP SINK
DATE=$(date +%Y%m%d-%H%M%S)
tar czf "$2/journal-${DATE}.tar.gz" -C "$1" .
cp "$2/journal-${DATE}.tar.gz" "$3/"
echo "Backup complete: journal-${DATE}.tar.gz"
