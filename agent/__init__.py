"""The agent: what runs on a machine that is being captured or deployed."""
