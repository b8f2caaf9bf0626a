"""No test here speaks TLS: a client of the API server need not read the certificates of the system first."""

import os

os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = os.devnull
