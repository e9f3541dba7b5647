"""``make demo``: the whole of it on two small journals, step by step, with real commands.

One of the journals is being appended to by another process all the time, in pieces that end
anywhere, as billing does it. Every command is printed as a user would type it, and then run by
a shell as it was printed. What is claimed is looked up in the files; the first thing that is not
as it should be ends the demonstration with an error.
"""
