// The dead letters of a sink: a page of them, each with what it is when it is opened.
import {make, count, size} from './dom.js';
import {ask} from './api.js';
import {sure} from './ask.js';

const pageSize = 50;
const boxes = new Map();

// showLetters keeps a box for each sink that has dead letters, and reads them again
// when their number has changed.
export function showLetters(into, sinks, act) {
  const names = new Set();
  for (const sink of sinks) {
    if (!sink.dead_letters) continue;
    names.add(sink.name);
    let box = boxes.get(sink.name);
    if (!box) {
      box = newBox(sink.name, act);
      boxes.set(sink.name, box);
      into.append(box.whole);
    }
    box.title.textContent = `${sink.name}: ${count(sink.dead_letters)}, ${count(sink.parked_keys)} keys parked`;
    if (box.seen !== sink.dead_letters) {
      const seen = sink.dead_letters;
      turn(box, async () => {
        await read(box, 1);
        box.seen = seen;
      });
    }
  }
  for (const [name, box] of boxes) {
    if (names.has(name)) continue;
    box.whole.remove();
    boxes.delete(name);
  }
  const none = into.querySelector(':scope > p');
  if (none) none.hidden = names.size > 0;
}

function newBox(name, act) {
  const box = {name, act, title: make('h3'), list: make('div'), note: make('p', {class: 'quiet', role: 'status'}), seen: 0, rows: new Map()};
  box.more = make('button', {type: 'button', hidden: true, onclick: () => turn(box, () => read(box, box.next, true))}, 'More');
  box.whole = make('article', {class: 'card', 'data-letters': name}, box.title, box.list, box.note, box.more);
  return box;
}

// turn does one thing at a time: of two answers the older one must not come last. What
// is asked meanwhile is asked again by the next look.
async function turn(box, what) {
  if (box.busy) return;
  box.busy = true;
  try {
    await what();
  } catch (error) {
    box.note.textContent = error.message;
  } finally {
    box.busy = false;
  }
}

async function read(box, from, keep) {
  const page = await ask('GET', `/v1/dlq/${encodeURIComponent(box.name)}?from=${from}&limit=${pageSize}`);
  // Rows that stay are the same elements: nobody who is at one is thrown out of it.
  const rows = new Map(page.dead_letters.map((letter) => [letter.lsn, box.rows.get(letter.lsn) || row(box, letter)]));
  if (keep) {
    for (const [lsn, one] of rows) {
      box.rows.set(lsn, one);
      box.list.append(one);
    }
  } else {
    for (const [lsn, one] of box.rows) if (!rows.has(lsn)) one.remove();
    let at = box.list.firstChild;
    for (const one of rows.values()) {
      if (one === at) at = at.nextSibling;
      else box.list.insertBefore(one, at);
    }
    box.rows = rows;
  }
  box.note.textContent = '';
  box.next = page.next;
  box.more.hidden = !page.next;
}

const key = (letter) => `${letter.collection} ${JSON.stringify(letter.key)}`;

function row(box, letter) {
  const body = make('div');
  const details = make('details', {'data-lsn': letter.lsn},
    make('summary', {}, `LSN ${letter.lsn} `, make('strong', {}, key(letter)), ` ${letter.state}: ${letter.reason}`), body);
  details.addEventListener('toggle', () => {
    if (details.open && !body.firstChild) whole(box, letter, body).catch((error) => body.replaceChildren(make('p', {class: 'bad'}, error.message)));
  });
  return details;
}

async function whole(box, letter, into) {
  const all = await ask('GET', path(box, letter));
  const write = all.mutation || all.group || all.statement;
  const parts = [
    make('p', {class: 'quiet'}, [`since ${new Date(letter.when).toLocaleString()}`, `tried alone: ${count(letter.attempts)}`, size(letter.bytes),
      letter.parks ? 'later writes to its key wait behind it' : 'parks nothing'].join(' · ')),
    make('pre', {tabindex: 0, 'aria-label': 'the write'}, write ? JSON.stringify(write, null, 2) : 'The write has no JSON form: it can be retried as it is, or discarded.'),
  ];
  if (letter.details) parts.push(make('pre', {tabindex: 0, 'aria-label': 'what the store said'}, JSON.stringify(letter.details, null, 2)));
  if (all.queue) parts.push(make('p', {}, `Behind it: LSN ${all.queue.map((q) => q.lsn).join(', ')}${all.queue_more ? ' and more' : ''}.`));
  parts.push(make('p', {},
    make('button', {type: 'button', onclick: () => retry(box, letter)}, 'Retry'), ' ',
    make('button', {type: 'button', class: 'danger', onclick: () => discard(box, letter)}, 'Discard')));
  into.replaceChildren(...parts);
}

const path = (box, letter) => `/v1/dlq/${encodeURIComponent(box.name)}/${letter.lsn}`;

function retry(box, letter) {
  box.act(`LSN ${letter.lsn} is logged again`, async () => {
    const answer = await ask('POST', `${path(box, letter)}:retry?ack=applied&timeout=10s`);
    box.seen = -1;
    return answer.retried.map((r) => `LSN ${r.origin} was logged again as ${r.lsn}: ${r.state}`).join('; ');
  });
}

async function discard(box, letter) {
  const yes = await sure(`Discard LSN ${letter.lsn}?`,
    `The write to ${key(letter)} was acknowledged and will never be in ${box.name}. This cannot be undone.`, 'Discard');
  if (!yes) return;
  box.act(`LSN ${letter.lsn} is given up`, async () => {
    await ask('DELETE', path(box, letter));
    box.seen = -1;
    return `LSN ${letter.lsn} was given up`;
  });
}
