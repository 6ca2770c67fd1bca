"""What a person sees. Streamlit lives in `ui/` and `pages/` only."""
