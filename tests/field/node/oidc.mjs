// An OpenID Connect provider over TLS. The first argument is JSON: port, pem (key and chain), clients.
import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import Provider from "oidc-provider";

const { port, pem, clients, scopes, features, username } = JSON.parse(process.argv[2]);

const provider = new Provider(`https://localhost:${port}`, {
  clients,
  scopes,
  features: {
    clientCredentials: { enabled: true },
    deviceFlow: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true },
    ...features,
  },
  ttl: { ClientCredentials: 3600, AccessToken: 300 }, // a person's token is refreshed at every look
  formats: { bitsOfOpaqueRandomness: 8000 }, // as long as Microsoft's tokens: too long for one line of AUTH
  extraTokenClaims: () => ({ username }),
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, preferred_username: id }) }),
});

const say = (event, details) => console.log(JSON.stringify({ event, ...details }));
provider.on("grant.success", (ctx) =>
  say("granted", { client: ctx.oidc.client.clientId, method: ctx.oidc.client.clientAuthMethod, scope: ctx.oidc.params.scope ?? null }));
provider.on("grant.error", (ctx, error) => say("refused", { error: error.error, detail: error.error_detail ?? error.error_description }));
provider.on("introspection.error", (_, error) => say("introspection refused", { error: error.error, detail: error.error_detail ?? error.error_description }));
provider.on("server_error", (_, error) => say("broken", { error: String(error.stack) }));

const file = readFileSync(pem);
createServer({ key: file, cert: file }, provider.callback()).listen(port, "127.0.0.1");
