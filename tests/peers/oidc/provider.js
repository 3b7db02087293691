// The OIDC provider of the suite: oidc-provider as it is published, with two machine clients.
//
// It promises JWT access tokens by client credentials: `iss` is its own address, `aud` is the resource's audience and
// `roles` is what the client was registered with. Keys and secrets are made at start, or given on standard input;
// nothing of them is in this file. It says where it is in one JSON line on standard output and ends with its input.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';

// {"audience": "…", "resource": "https://…", "clients": [{"id": "…", "secret": "…", "roles": ["…"]}]}
const lines = createInterface({ input: process.stdin });
const settings = JSON.parse(await new Promise((resolve) => lines.once('line', resolve)));
lines.once('close', () => process.exit(0));

const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const key = { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: 'RS256' };
const roles = new Map(settings.clients.map((client) => [client.id, client.roles]));

const server = createServer();
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  jwks: { keys: [key] },
  clients: settings.clients.map((client) => ({
    client_id: client.id,
    client_secret: client.secret,
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
  })),
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      // a token without this audience is opaque, so that a client which forgets `resource` is seen to fail
      getResourceServerInfo: (ctx, resource) => {
        if (resource !== settings.resource) throw new Error(`unknown resource ${resource}`);
        return { scope: '', audience: settings.audience, accessTokenFormat: 'jwt', accessTokenTTL: 300, jwt: { sign: { alg: 'RS256' } } };
      },
    },
  },
  extraTokenClaims: (ctx, token) => ({ roles: roles.get(token.clientId) ?? [] }),
});
server.on('request', provider.callback());
process.stdout.write(`${JSON.stringify({ issuer })}\n`);
