"""What a plug-in may import, and all plug-ins by name."""
