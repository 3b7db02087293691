"""Google's own client of RFC 8693, which knows nothing of the gate, exchanges a token there.

It promises one JSON line: what the token endpoint answered, or the error as the client raises it.

    exchange.py TOKEN_URL SUBJECT_TOKEN AUDIENCE
"""
import json
import sys

import google.auth.exceptions
import google.auth.transport.requests
import google.oauth2.sts

url, token, audience = sys.argv[1:]
client = google.oauth2.sts.Client(url)
try:
    answer = client.exchange_token(
        google.auth.transport.requests.Request(),
        "urn:ietf:params:oauth:grant-type:token-exchange",
        token,
        "urn:ietf:params:oauth:token-type:jwt",
        audience=audience,
        requested_token_type="urn:ietf:params:oauth:token-type:access_token",
    )
except google.auth.exceptions.OAuthError as error:
    answer = {"error": str(error.args[0])}
print(json.dumps(answer))
