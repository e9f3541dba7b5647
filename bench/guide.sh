#!/bin/sh
# The script of Deepgram's guide for airgapped sites, as its CronJob runs it, with these changes:
# nothing is installed (that is not timed), the directories are arguments, and so is the command
# that stores the archive: cp, as the guide's note for fully airgapped environments says, or what
# does the work of `aws s3 cp`; and if that fails, it says so.
#
#     guide.sh MNT TMP SINK COPY...
mnt=$1 tmp=$2 sink=$3
shift 3
DATE=$(date +%Y%m%d-%H%M%S)
tar czf "$tmp/journal-${DATE}.tar.gz" -C "$mnt" .
"$@" "$tmp/journal-${DATE}.tar.gz" "$sink/" || exit
echo "Backup complete: journal-${DATE}.tar.gz"
