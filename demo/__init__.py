"""`make demo`: the whole of it on two small journals, step by step."""
