"""Prints the MiB that a process holds which imports the packages of a server with a scikit-learn model, and no more."""

import os

import aiohttp  # noqa: F401
import httptools  # noqa: F401
import numpy  # noqa: F401
import orjson  # noqa: F401
import prometheus_client  # noqa: F401
import pydantic_settings  # noqa: F401
import sklearn.linear_model
import sklearn.pipeline
import sklearn.preprocessing  # noqa: F401
import skops.io  # noqa: F401
import uvicorn.protocols.http.httptools_impl  # noqa: F401
import uvloop  # noqa: F401
import yaml  # noqa: F401

from .processes import resident_mib

if __name__ == "__main__":
    print(resident_mib(os.getpid()))
