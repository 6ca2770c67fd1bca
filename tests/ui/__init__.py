"""The portal without a browser: its words, in both languages."""
