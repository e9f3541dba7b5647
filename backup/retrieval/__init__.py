"""The way back: bytes come from a sink proved, and appear on a disk whole or not at all."""
