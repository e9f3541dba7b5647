"""`make bench`: this tool beside others, on the same journals, in one run."""
