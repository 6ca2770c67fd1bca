"""What VisionMeter does, independent of how it is shown: no Streamlit, no FastAPI, no Plotly here."""
