// A second opinion on the tokens that the gate signs: `jose`, which comes with oidc-provider.
//
// It reads one JSON line, {"token", "jwks", "issuer", "audience", "typ"}, and prints what the token says, verified, in one
// line; where anything is wrong it fails.
import { createLocalJWKSet, jwtVerify } from 'jose';
import { createInterface } from 'node:readline';

const lines = createInterface({ input: process.stdin });
const { token, jwks, issuer, audience, typ } = JSON.parse(await new Promise((resolve) => lines.once('line', resolve)));
lines.close();
const { payload, protectedHeader } = await jwtVerify(token, createLocalJWKSet(jwks), {
  issuer,
  audience,
  typ,
  algorithms: ['ES256'],
  requiredClaims: ['sub', 'exp', 'iat', 'jti'],
  clockTolerance: 0,
});
process.stdout.write(`${JSON.stringify({ payload, header: protectedHeader })}\n`);
