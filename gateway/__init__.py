"""What a program sees: HTTP. FastAPI lives here only."""
