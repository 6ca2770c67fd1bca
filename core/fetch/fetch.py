"""Fetching a picture from an address that a customer gives, and sending a webhook to one.

httpcore is used as it is, under httpx: it follows no redirect, keeps no cookie, reads no proxy from the environment and
unpacks nothing, so all that happens is written here.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urljoin

import httpcore

from core.errors import ImageTooManyBytesError, ImageUrlFailedError, ImageUrlRefusedError, WebhookUrlRefusedError
from core.fetch.addresses import NotCalledError, Target, UrlRefused, check_url, judge, parse_allowed_hosts, parse_url
from core.fetch.networks import IPAddress
from core.fetch.wire import Deadline, PinnedNetwork, Resolve, resolve_by, system_resolve

USER_AGENT = "VisionMeter/1 (+https://www.standardwebhooks.com)"
