"""An app's user, by cloudfoundry-client: logs in, and asks what the app has logged.

Prints the mark of each envelope, as they come.
"""

import sys

from cloudfoundry_client.client import CloudFoundryClient

api, ca, user, password, app = sys.argv[1:]
client = CloudFoundryClient(api, verify=ca)
client.init_with_user_credentials(user, password)
for envelope in client.doppler.recent_logs(app):
    print(f"got {envelope.tags['mark']}", flush=True)
