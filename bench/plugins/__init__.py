"""What a plug-in may import, and where plug-ins are found."""
