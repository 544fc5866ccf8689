// A card for each sink. Cards stay: what is in them changes, so that whoever tabs
// through them is not thrown out by the next look.
import {make, count, rate, size, span} from './dom.js';

const cards = new Map();

function words(sink) {
  if (sink.paused) return ['paused', 'warn'];
  switch (sink.state) {
    case 'running': return [sink.lag ? 'moving' : 'level', 'good'];
    case 'retrying': return ['store away', 'warn'];
    case 'halted': return ['halted', 'bad'];
  }
  return [sink.state, 'warn'];
}

function newCard(name, act) {
  const card = {
    state: make('span', {class: 'pill'}), error: make('p', {class: 'bad', hidden: true}), facts: make('dl', {class: 'tiles'}),
    lanes: make('tbody'), notes: make('p', {class: 'quiet'}), button: make('button', {type: 'button', class: 'right'}),
  };
  card.button.addEventListener('click', () => act(card.verb, name));
  card.whole = make('article', {class: 'card', 'data-sink': name},
    make('div', {class: 'head'}, make('h3', {}, name), card.state, card.button), card.error, card.facts, card.notes,
    make('details', {}, make('summary', {}, 'Lanes'), make('div', {class: 'scroll'}, make('table', {},
      make('thead', {}, make('tr', {}, make('th', {scope: 'col'}, 'lane'), make('th', {scope: 'col', class: 'n'}, 'checkpoint'),
        make('th', {scope: 'col', class: 'n'}, 'LSNs behind'), make('th', {scope: 'col'}, 'of the log'))), card.lanes))));
  return card;
}

export function facts(list, of) {
  list.replaceChildren(...of.map(([term, value, more]) =>
    make('div', {}, make('dt', {}, term), make('dd', {}, value, more ? make('small', {}, more) : null))));
}

export function showSinks(into, status, act) {
  const names = new Set();
  for (const sink of status.sinks || []) {
    names.add(sink.name);
    if (!cards.has(sink.name)) {
      cards.set(sink.name, newCard(sink.name, act));
      into.append(cards.get(sink.name).whole);
    }
    show(cards.get(sink.name), sink, status.log);
  }
  for (const [name, card] of cards) {
    if (names.has(name)) continue;
    card.whole.remove();
    cards.delete(name);
  }
}

function show(card, sink, log) {
  const [word, cls] = words(sink);
  card.state.textContent = word;
  card.state.className = `pill ${cls}`;
  card.error.hidden = !sink.error;
  card.error.textContent = sink.error || '';
  card.verb = sink.paused || sink.state === 'halted' ? 'resume' : 'pause';
  card.button.textContent = card.verb === 'pause' ? 'Pause' : 'Resume';
  card.button.setAttribute('aria-label', `${card.button.textContent} sink ${sink.name}`);
  const most = sink.lag_at_most ? 'at most ' : '';
  facts(card.facts, [
    ['applied up to', `LSN ${count(sink.applied)}`, `checkpoint ${count(sink.checkpoint)}`],
    ['behind', `${most}${count(sink.lag)} records`, size(sink.lag_bytes) + (sink.max_lag_bytes ? ` of ${size(sink.max_lag_bytes)}` : '')],
    ['oldest of them', sink.oldest_seconds ? span(sink.oldest_seconds) : 'none', sink.oldest_lsn ? `LSN ${count(sink.oldest_lsn)}` : null],
    ['applies', `${rate(sink.records_passed_per_second)}/s`, sink.level_in_seconds ? `level in ${span(sink.level_in_seconds)}` : null],
    ['dead letters', count(sink.dead_letters), `${count(sink.parked_keys)} keys parked`],
    ['retries', count(sink.retries), `${count(sink.batches)} batches`],
  ]);
  card.notes.textContent = [`epoch ${sink.epoch}`, sink.owner && `owner ${sink.owner}`, sink.held_records && `${count(sink.held_records)} records held`,
    sink.lost_records && `${count(sink.lost_records)} lost by a repair`, ...(sink.warnings || [])].filter(Boolean).join(' · ');
  const depth = Math.max(1, log.durable - log.first + 1);
  card.lanes.replaceChildren(...(sink.lanes || []).map((lsn, lane) => {
    const behind = Math.max(0, log.durable - lsn);
    return make('tr', {}, make('td', {}, String(lane)), make('td', {class: 'n'}, count(lsn)), make('td', {class: 'n'}, count(behind)),
      make('td', {}, make('meter', {min: 0, max: depth, value: Math.min(behind, depth), 'aria-label': `lane ${lane} is ${behind} LSNs behind`})));
  }));
}
