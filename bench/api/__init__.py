"""What the commands do and show, without the command line around them; scripts and notebooks use it, too."""
