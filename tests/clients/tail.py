"""An app's user, by cloudfoundry-client: logs in, and streams the app's logs.

Prints the mark of each envelope, until it has COUNT.
"""

import sys

from cloudfoundry_client.client import CloudFoundryClient

api, ca, user, password, app, count = sys.argv[1:]
client = CloudFoundryClient(api, verify=ca)
client.init_with_user_credentials(user, password)
for number, envelope in enumerate(client.doppler.stream_logs(app), 1):
    print(f"got {envelope.tags['mark']}", flush=True)
    if number == int(count):
        break
