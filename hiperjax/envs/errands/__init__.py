"""Several household errands at a time, an orchestrator, and sub-agents that work side by side."""
