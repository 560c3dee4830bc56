"""Other people's worlds: Gymnasium's methods and tools in MCP's form; shims for other forms."""
