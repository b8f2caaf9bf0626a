"""No test here speaks TLS to anybody: a client of the API server need not read all of the system's certificates first."""

import os

os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = os.devnull
