// Line charts of the last minutes, drawn anew with each look at the server.
import {make, svg, count, rate} from './dom.js';

const looksMax = 300;
const width = 300, height = 100, left = 34, bottom = 12;

export class Chart {
  constructor(figure) {
    this.figure = figure;
    this.looks = []; // {at, values}
    this.drawing = svg('svg', {viewBox: `0 0 ${width} ${height}`, role: 'img'});
    this.legend = make('div', {class: 'legend'});
    figure.append(this.drawing, this.legend);
  }

  // add notes values by name; a name that is missing has a gap.
  add(at, values) {
    this.looks.push({at, values});
    if (this.looks.length > looksMax) this.looks.shift();
    this.draw();
  }

  draw() {
    const names = [...new Set(this.looks.flatMap((l) => Object.keys(l.values)))].slice(0, 8);
    const top = Math.max(1, ...this.looks.flatMap((l) => Object.values(l.values)).filter(Number.isFinite)) * 1.1;
    const end = this.looks.at(-1).at, begin = Math.min(this.looks[0].at, end - 60_000);
    const x = (at) => left + (width - left) * (at - begin) / (end - begin);
    const y = (v) => (height - bottom) * (1 - v / top);
    const parts = [
      svg('line', {class: 'axis', x1: left, x2: width, y1: height - bottom, y2: height - bottom}),
      svg('text', {x: left - 3, y: 10, 'text-anchor': 'end'}, short(top)),
      svg('text', {x: left - 3, y: height - bottom, 'text-anchor': 'end'}, '0'),
      svg('text', {x: left, y: height - 2}, `${Math.round((begin - end) / 1000)} s`),
      svg('text', {x: width, y: height - 2, 'text-anchor': 'end'}, 'now'),
    ];
    const last = [];
    this.legend.replaceChildren(...names.map((name, i) => {
      const points = this.looks.filter((l) => Number.isFinite(l.values[name]))
        .map((l) => `${x(l.at).toFixed(1)},${y(l.values[name]).toFixed(1)}`);
      const cls = `s${i % 4 + 1}`;
      parts.push(svg('polyline', {class: cls, points: points.join(' '), 'stroke-dasharray': i >= 4 ? '4 2' : null}));
      const value = this.looks.at(-1).values[name];
      last.push(`${name} ${Number.isFinite(value) ? rate(value) : 'unknown'}`);
      return make('span', {}, svg('svg', {viewBox: '0 0 12 6', 'aria-hidden': 'true'},
        svg('line', {class: cls, x1: 0, x2: 12, y1: 3, y2: 3, 'stroke-width': 2})), ' ' + last.at(-1));
    }));
    this.drawing.setAttribute('aria-label', `${this.figure.querySelector('figcaption').textContent}: ${last.join(', ')}`);
    this.drawing.replaceChildren(...parts);
  }
}

function short(n) {
  if (n >= 1e9) return `${(n / 1e9).toPrecision(2)}G`;
  if (n >= 1e6) return `${(n / 1e6).toPrecision(2)}M`;
  if (n >= 1e4) return `${Math.round(n / 1e3)}k`;
  return n >= 10 ? count(n).replace(',', '') : n.toPrecision(2);
}
