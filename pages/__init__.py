"""The pages, one file each: they read widgets, call one core function and render."""
