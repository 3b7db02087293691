// The pages of the suite's OIDC provider: plain forms that a program can post and a browser can show.
//
// They promise to work without a script and to load nothing from elsewhere.

const escape = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const page = (title, body) => `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>${escape(title)}</title></head>
<body><h1>${escape(title)}</h1>${body}</body></html>`;

const show = (ctx, title, body) => {
  ctx.type = 'html';
  ctx.body = page(title, body);
};
// Puts buttons into a form that oidc-provider wrote.
const filled = (form, buttons) => form.replace('</form>', `${buttons}</form>`);

export const pages = {
  error: (ctx, out) => show(ctx, 'Error', Object.entries(out).map(([k, v]) => `<p>${escape(k)}: ${escape(v)}</p>`).join('')),
  logout: (ctx, form) => show(ctx, 'Sign out', filled(form, '<button name="logout" value="yes">Sign out</button>')),
  loggedOut: (ctx) => show(ctx, 'Signed out', '<p>You are signed out.</p>'),
  userCode: (ctx, form, out, error) => {
    const problem = error ? `<p role="alert">${escape(error.message)}</p>` : '';
    show(ctx, 'Device', problem + filled(form, '<button>Continue</button>'));
  },
  userCodeConfirm: (ctx, form, client, device, code) => {
    const buttons = '<button>Continue</button><button name="abort" value="yes">Abort</button>';
    show(ctx, 'Confirm', `<p>${escape(client.clientId)}: <code>${escape(code)}</code></p>${filled(form, buttons)}`);
  },
  deviceDone: (ctx) => show(ctx, 'Done', '<p>You can close this page.</p>'),
};

const loginForm = (problem) => `<form method="post">${problem ? `<p role="alert">${escape(problem)}</p>` : ''}
<label>Name <input name="login" autocomplete="username" autofocus></label>
<button>Sign in</button><button name="abort" value="yes">Cancel</button></form>`;
const consentForm = (client) => `<form method="post"><p>Let ${escape(client)} know who you are?</p>
<button>Allow</button><button name="abort" value="yes">Deny</button></form>`;

const posted = async (request) => {
  let text = '';
  for await (const part of request) text += part;
  return new URLSearchParams(text);
};

// Answers `/interaction/…` and says whether it did: the person's half of a login.
export const interactions = (provider, settings) => {
  const html = (response, title, body) => {
    response.writeHead(200, { 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' });
    response.end(page(title, body));
  };
  const consented = async ({ params, session, grantId, prompt: { details } }) => {
    const known = grantId && (await provider.Grant.find(grantId));
    const grant = known || new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
    if (details.missingOIDCScope) grant.addOIDCScope(details.missingOIDCScope.join(' '));
    if (details.missingOIDCClaims) grant.addOIDCClaims(details.missingOIDCClaims);
    return { consent: { grantId: await grant.save() } };
  };
  const answer = async (request, response) => {
    const interaction = await provider.interactionDetails(request, response);
    const { prompt, params } = interaction;
    const finish = (result, more) => provider.interactionFinished(request, response, result, { mergeWithLastSubmission: more });
    const form = request.method === 'POST' ? await posted(request) : undefined;
    if (form?.has('abort')) return finish({ error: 'access_denied', error_description: 'the person said no' }, false);
    if (prompt.name === 'consent') {
      if (!form) return html(response, 'Consent', consentForm(params.client_id));
      return finish(await consented(interaction), true);
    }
    const name = form?.get('login');
    if (!form) return html(response, 'Sign in', loginForm());
    if (!settings.people[name]) return html(response, 'Sign in', loginForm(`nobody here is called ${name}`));
    return finish({ login: { accountId: name } }, false);
  };
  return (request, response) => {
    if (!request.url.startsWith('/interaction/')) return false;
    answer(request, response).catch((error) => {
      response.writeHead(error.statusCode ?? 500, { 'content-type': 'text/plain' });
      response.end(`${error.name}: ${error.message}`);
    });
    return true;
  };
};
