"""Frozen values. One definition serves the agent, the server and the documents.

Everything that crosses a wire or a file derives from `agent.model.wire.Value`.
"""
