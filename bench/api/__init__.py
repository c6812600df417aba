"""What the commands do and tell, without the command line around them; scripts and notebooks call it, too."""
