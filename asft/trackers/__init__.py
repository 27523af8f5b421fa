"""Where runs are shown while they train and afterwards."""
