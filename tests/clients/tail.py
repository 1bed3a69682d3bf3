"""An app's user, by cloudfoundry-client: logs in, and streams the app's logs.

Prints the mark of each envelope, until it has COUNT.
"""

import sys

from cloudfoundry_client.client import CloudFoundryClient

import cloud

endpoint, ca, token, app, count = sys.argv[1:]
with cloud.serve(endpoint, token) as api:
    client = CloudFoundryClient(api, verify=ca)
    client.init_with_user_credentials("user", "password")
    for number, envelope in enumerate(client.doppler.stream_logs(app), 1):
        print(f"got {envelope.tags['mark']}", flush=True)
        if number == int(count):
            break
