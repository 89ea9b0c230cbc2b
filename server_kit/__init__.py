"""What both servers stand on: listeners, health, reflection, error mapping, metrics, logging and an orderly end."""
