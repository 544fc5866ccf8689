// The page: a look at the server each second while somebody can see it.
import {element, make, count, rate, size, span} from './dom.js';
import {ask, token, Refused} from './api.js';
import {forToken} from './ask.js';
import {Chart} from './chart.js';
import {facts, showSinks} from './sinks.js';
import {showLetters} from './letters.js';

const interval = 1000;
const charts = {
  acks: new Chart(element('chart-acks')), latency: new Chart(element('chart-latency')), lag: new Chart(element('chart-lag')),
};
let before = null; // {at, records} of the look before

function pill(text, cls) {
  const state = element('state');
  if (state.textContent !== text) state.textContent = text; // it is read aloud
  state.className = `pill ${cls}`;
}

function why(text) {
  element('why').hidden = !text;
  if (element('why').textContent !== text) element('why').textContent = text;
}

function show(status, at) {
  const log = status.log;
  pill(status.accepting ? 'accepting writes' : 'not accepting writes', status.accepting ? 'good' : 'bad');
  why(status.accepting ? '' : `Writes are refused: ${status.refusing}`);
  const sinks = status.sinks || [];
  const applied = Math.min(log.durable, ...sinks.map((s) => s.applied));
  const seconds = before ? (at - before.at) / 1000 : 0;
  const acks = seconds > 0 && log.records >= before.records ? (log.records - before.records) / seconds : NaN;
  before = {at, records: log.records};
  facts(element('tiles'), [
    ['acknowledged', `${rate(Number.isFinite(acks) ? acks : log.records_per_second)}/s`, `${rate(log.records_per_second)}/s over ${span(status.window_seconds)}`],
    ['ack takes', span(log.ack_seconds_median), `99 %: ${span(log.ack_seconds_p99)}`],
    ['fsync takes', span(log.sync_seconds_median), `99 %: ${span(log.sync_seconds_p99)}`],
    ['durable up to', `LSN ${count(log.durable)}`, `from ${count(log.first)}, in ${count(log.segments)} ${log.segments === 1 ? 'segment' : 'segments'}`],
    ['not everywhere yet', `${count(log.durable - applied)} LSNs`, 'durable, not applied by every sink'],
    ['log and state', size(log.bytes + status.state_bytes), log.max_bytes > 0 ? `of ${size(log.max_bytes)}` : null],
    ['free on the disk', size(log.free_bytes), log.min_free > 0 ? `at least ${size(log.min_free)} stay free` : null],
    ['full in', log.full_in_seconds ? span(log.full_in_seconds) : 'not filling', `grows by ${size(Math.max(0, log.growth_bytes_per_second))}/s`],
  ]);
  charts.acks.add(at, {acks});
  charts.latency.add(at, {median: 1e3 * (log.ack_seconds_median || NaN), '99 %': 1e3 * (log.ack_seconds_p99 || NaN)});
  charts.lag.add(at, Object.fromEntries(sinks.map((s) => [s.name, s.lag])));
  showSinks(element('sinks'), status, pause);
  showLetters(element('letters'), sinks, act);
}

function showRecent(entries) {
  element('recent').replaceChildren(...(entries.length ? entries.map((e) => make('li', {},
    make('span', {class: e.level === 'warn' ? 'warn' : 'bad'}, e.level), ' ',
    make('time', {datetime: e.time, class: 'quiet'}, new Date(e.time).toLocaleString()), ` ${e.logger ? e.logger + ': ' : ''}${e.message} `,
    make('span', {class: 'quiet'}, Object.entries(e.fields || {}).map(([k, v]) => `${k}=${typeof v === 'string' ? v : JSON.stringify(v)}`).join(' '))))
    : [make('li', {class: 'quiet'}, 'None since the start.')]));
}

let asking = false;
async function look() {
  if (asking || document.hidden) return;
  asking = true;
  try {
    const [status, recent] = await Promise.all([ask('GET', '/v1/status'), ask('GET', '/recent')]);
    show(status, performance.now());
    showRecent(recent.entries);
    element('asked').textContent = `stream ${status.stream.slice(0, 8)}, ${new Date().toLocaleTimeString()}`;
  } catch (error) {
    if (error instanceof Refused && (error.status === 401 || error.status === 403)) {
      pill('needs a token', 'warn');
      why(error.message);
    } else {
      pill('no answer', 'bad');
      why(error instanceof Refused ? error.message : 'The server does not answer. What is below is what it said last.');
    }
  } finally {
    asking = false;
  }
}

// act does what was clicked, asks for a token if one is needed, and says what came of it.
async function act(doing, what) {
  element('done').textContent = doing + ' ...';
  try {
    element('done').textContent = await what();
  } catch (error) {
    element('done').textContent = error.message;
    if (error instanceof Refused && error.status === 401 && await newToken(error.message)) return act(doing, what);
  }
  look();
}

function pause(verb, name) {
  act(`${verb} ${name}`, async () => {
    const answer = await ask('POST', `/v1/sinks/${encodeURIComponent(name)}:${verb}`);
    return answer.paused ? `${name} is paused${answer.busy ? ': a call of the store is still under way' : ''}` : `${name} goes on`;
  });
}

async function newToken(text) {
  const typed = await forToken(text);
  if (typed === null) return false;
  token.set(typed);
  look();
  return typed !== '';
}

element('token').addEventListener('click', () => newToken('Sent with every request of this tab until it is closed; empty: none.'));
document.addEventListener('visibilitychange', look);
setInterval(look, interval);
look();
