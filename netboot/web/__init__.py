"""The dashboard: plain pages that read the API. No build step, nothing from elsewhere."""
