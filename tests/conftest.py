"""What every test may rely on."""

import signal

# A run in the background of a shell inherits an ignored SIGINT, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
