// The OIDC provider of the suite: oidc-provider as it is published, with what its settings name.
//
// It promises the whole of a provider on loopback: client credentials, authorization code with PKCE, device grant,
// refresh tokens that rotate, introspection, revocation, RP-initiated and back-channel logout, DPoP, and over TLS
// certificate-bound tokens. An access token is a JWT for the `resource`, opaque for the `opaque_resource` and without
// either; `aud` is the audience, `iss` its own address, and `roles` what the client or the person was registered with.
// People log in by name, without a password; consent is automatic except for native clients, which oidc-provider always
// asks for (RFC 8252 section 8.6), or by a form. Keys and secrets are made at start, or given on standard input;
// nothing of them is in this file.
//
// The first line on standard input is the settings:
//   {"audience": "…", "resource": "https://…", "opaque_resource": "https://…",
//    "clients": [client metadata of RFC 7591, and "roles": ["…"]],
//    "people": {"alice": {"roles": ["…"], other claims}},
//    "consent": "automatic" | "form", "algorithm": "RS256" | "ES256" (of access tokens),
//    "ttl": {"AccessToken": seconds, "IdToken": …, "RefreshToken": …, "DeviceCode": …, "Session": …},
//    "rotate_refresh_tokens": true, "dpop_nonces": false, "address": port or 0, "tls": {"certificate": file, "key": file}}
// Each line after it is a command, answered with {"done": "command"}:
//   {"command": "rotate", "keep": false}  new keys; the old ones are withdrawn, unless kept: published, not used
//   {"command": "set", …}                 replaces these settings; clients and ttl among them
//   {"command": "stop"} {"command": "start"}  nobody answers; answers again, at the same address
// It says where it is in one JSON line on standard output, what became of each back-channel logout in others, and ends
// with its input.
import { generateKeyPairSync, randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import * as http from 'node:http';
import * as https from 'node:https';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';
import { createMemoryAdapter } from 'oidc-provider/lib/adapters/memory_adapter.js';
import { interactions, pages } from './pages.js';

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const settings = {
  consent: 'automatic',
  algorithm: 'RS256',
  rotate_refresh_tokens: true,
  dpop_nonces: false,
  opaque_resource: 'https://opaque.example',
  people: {},
  ttl: {},
  ...JSON.parse((await lines.next()).value),
};
const cookieKeys = [randomBytes(32).toString('hex')];
const nonceSecret = randomBytes(32);

const keyPair = (type, options, alg) => {
  const { privateKey } = generateKeyPairSync(type, options);
  return { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg };
};
const newKeys = () => [keyPair('rsa', { modulusLength: 2048 }, 'RS256'), keyPair('ec', { namedCurve: 'P-256' }, 'ES256')];
let keys = newKeys();
const adapter = createMemoryAdapter();

const { tls } = settings;
const server = tls
  ? https.createServer({
      cert: readFileSync(tls.certificate),
      key: readFileSync(tls.key),
      // RFC 8705 section 3: any certificate may bind a token; its key is proved by the handshake
      requestCert: true,
      rejectUnauthorized: false,
    })
  : http.createServer();
server.listen(settings.address ?? 0, '127.0.0.1');
await once(server, 'listening');
const { port } = server.address();
const issuer = tls ? `https://localhost:${port}` : `http://127.0.0.1:${port}`;

const rolesOf = ({ accountId, clientId }) => {
  const holder = accountId ? settings.people[accountId] : settings.clients.find((client) => client.client_id === clientId);
  return holder?.roles ?? [];
};
const lifetime = (kind, seconds) => (ctx, token) => settings.ttl[kind] ?? token.resourceServer?.accessTokenTTL ?? seconds;

// The grant for what the client asks now, so that nobody is asked for consent.
const grantAll = async (ctx) => {
  const { client, session, params, provider } = ctx.oidc;
  const id = ctx.oidc.result?.consent?.grantId ?? session.grantIdFor(client.clientId);
  const known = id && (await provider.Grant.find(id));
  if (settings.consent === 'form') return known || undefined;
  const grant = known || new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
  if (params.scope) grant.addOIDCScope(params.scope);
  await grant.save();
  return grant;
};

const configuration = () => ({
  adapter,
  jwks: { keys },
  clients: settings.clients.map(({ roles, ...metadata }) => metadata),
  clientDefaults: { id_token_signed_response_alg: 'RS256', grant_types: ['authorization_code'], response_types: ['code'] },
  scopes: ['openid', 'offline_access'],
  claims: { openid: ['sub', 'roles'], email: ['email', 'email_verified'], profile: ['name'], sid: null, auth_time: null },
  // claims of the granted scopes stand in the ID token too, as with most providers
  conformIdTokenClaims: false,
  cookies: { keys: cookieKeys },
  pkce: { required: () => true },
  findAccount: (ctx, sub) => {
    const person = settings.people[sub];
    return person && { accountId: sub, claims: () => ({ ...person, sub }) };
  },
  loadExistingGrant: grantAll,
  issueRefreshToken: (ctx, client) => client.grantTypeAllowed('refresh_token'),
  rotateRefreshToken: () => settings.rotate_refresh_tokens,
  extraTokenClaims: (ctx, token) => ({ roles: rolesOf(token) }),
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  renderError: pages.error,
  ttl: {
    AccessToken: lifetime('AccessToken', 300),
    ClientCredentials: lifetime('AccessToken', 300),
    IdToken: lifetime('IdToken', 3600),
    RefreshToken: lifetime('RefreshToken', 86400),
    DeviceCode: lifetime('DeviceCode', 600),
    Session: lifetime('Session', 86400),
    Grant: lifetime('Grant', 86400),
    Interaction: lifetime('Interaction', 3600),
  },
  // what it publishes calls only this machine, which oidc-provider's own dispatcher would refuse
  fetch: (url, { dispatcher, ...options }) => fetch(url, options),
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    backchannelLogout: { enabled: true },
    deviceFlow: {
      enabled: true,
      userCodeInputSource: pages.userCode,
      userCodeConfirmSource: pages.userCodeConfirm,
      successSource: pages.deviceDone,
    },
    rpInitiatedLogout: { enabled: true, logoutSource: pages.logout, postLogoutSuccessSource: pages.loggedOut },
    dPoP: { enabled: true, nonceSecret, requireNonce: () => settings.dpop_nonces },
    mTLS: {
      enabled: Boolean(tls),
      certificateBoundAccessTokens: true,
      getCertificate: (ctx) => ctx.req.socket.getPeerX509Certificate?.(),
    },
    resourceIndicators: {
      enabled: true,
      useGrantedResource: () => true,
      getResourceServerInfo: (ctx, resource) => {
        const info = { scope: '', audience: settings.audience, accessTokenTTL: settings.ttl.AccessToken ?? 300 };
        if (resource === settings.opaque_resource) return { ...info, accessTokenFormat: 'opaque' };
        if (resource !== settings.resource) throw new Error(`unknown resource ${resource}`);
        return { ...info, accessTokenFormat: 'jwt', jwt: { sign: { alg: settings.algorithm } } };
      },
    },
  },
});

// What answers now. Sessions, grants and tokens outlive it: they are kept in one place for the process, not in one for
// each provider, as oidc-provider would of itself.
let answer;
const build = () => {
  const provider = new Provider(issuer, configuration());
  provider.on('server_error', (ctx, error) => process.stderr.write(`${error.stack}\n`));
  provider.on('backchannel.success', (ctx, client, accountId, sid) => say({ backchannel: client.clientId, accountId, sid }));
  provider.on('backchannel.error', (ctx, error, client) => say({ backchannel: client.clientId, error: String(error) }));
  const protocol = provider.callback();
  const people = interactions(provider, settings);
  answer = (request, response) => (people(request, response) ? undefined : protocol(request, response));
};
build();
server.on('request', (request, response) => answer(request, response));
say({ issuer });

const commands = {
  rotate: ({ keep }) => {
    keys = [...newKeys(), ...(keep ? keys : [])];
    build();
  },
  set: ({ command, ...changed }) => {
    Object.assign(settings, changed);
    build();
  },
  stop: async () => {
    const closed = once(server, 'close');
    server.close();
    server.closeAllConnections();
    await closed;
  },
  start: async () => {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
  },
};
for await (const line of lines) {
  const command = JSON.parse(line);
  await commands[command.command](command);
  say({ done: command.command });
}
process.exit(0);
