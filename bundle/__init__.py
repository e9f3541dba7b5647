"""What a site without a network carries in: one tar with image, chart, SBOM and checksums.

    python -m bundle chart      dist/deepgram-journal-backup-<version>.tgz
    python -m bundle sbom       dist/deepgram-journal-backup-<version>.cdx.json, of dist/image.tar
    python -m bundle            dist/deepgram-journal-backup-<version>-airgap.tar, of all that

Rules:

- The same inputs give the same bytes, whenever and wherever: names are sorted, owners and modes are
  fixed, and times are those of `SOURCE_DATE_EPOCH`
  (https://reproducible-builds.org/specs/source-date-epoch/). Where that is not set, SBOM and bundle
  have the time of the image, which has that of its commit. The chart's package has a fixed time: it
  is part of a commit itself, below examples/umbrella. The `package` of Helm 3 stamps the clock.
- The SBOM says what is in the image, and is read from it, not from what it was to be made of.
- Nothing is fetched.
"""
