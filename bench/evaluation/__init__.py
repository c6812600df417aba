"""What a trained network predicts, learned and withstands."""
