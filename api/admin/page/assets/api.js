// What the page asks the server, with the token that was typed in, if one was. The
// token stays in this tab, and goes nowhere but to the server that the page came from.
const tokenKey = 'walproxy-token';

export const token = {
  get: () => sessionStorage.getItem(tokenKey) || '',
  set: (value) => value ? sessionStorage.setItem(tokenKey, value) : sessionStorage.removeItem(tokenKey),
};

export class Refused extends Error {
  constructor(status, body) {
    super((body && body.message) || `the server answered ${status}`);
    this.status = status;
  }
}

// ask returns the JSON of an answer, or throws Refused; nothing is answered when the
// server cannot be reached, which is another error.
export async function ask(method, path, body) {
  const headers = {Accept: 'application/json'};
  if (method !== 'GET') headers['Content-Type'] = 'application/json';
  if (token.get()) headers.Authorization = 'Bearer ' + token.get();
  const answer = await fetch(path, {
    method, headers, cache: 'no-store', redirect: 'error', referrerPolicy: 'no-referrer',
    signal: AbortSignal.timeout(method === 'GET' ? 10_000 : 60_000),
    body: method === 'GET' ? undefined : JSON.stringify(body || {}),
  });
  let parsed = null;
  try { parsed = await answer.json(); } catch { /* no JSON: the status has to do */ }
  if (!answer.ok) throw new Refused(answer.status, parsed);
  return parsed;
}
