// The programme by node-postgres and by postgres.js, named in MODE.
const fs = require('fs')
const env = process.env
const steps = fs.readFileSync(env.STEPS, 'utf8').split('\n').filter((l) => l && l[0] !== '#').map((l) => l.split('\t'))
// Of a server that is named by its address these drivers check the name "localhost".
const tls = env.PGSSLMODE === 'disable' ? false : { ca: fs.readFileSync(env.PGSSLROOTCERT), checkServerIdentity: () => undefined }

function value(arg) {
  const [type, text] = [arg[0], arg.slice(2)]
  switch (type) {
    case '0': return null
    case 'i': return Number.isSafeInteger(Number(text)) ? Number(text) : text
    case 'f': return Number(text)
    case 'b': return text === 'true'
    case 'x': return Buffer.from(text, 'hex')
    case 't': return new Date(text)
    case 'j': return JSON.parse(text)
    case 'a': return text.split(',')
  }
  return text
}

const show = (v) => v === null ? 'NULL' : v instanceof Date ? v.toISOString() : String(v)
const said = (e) => `ERROR ${e.code} ${e.message}`
const out = (name, text) => console.log(`${name}: ${text}`)

async function main(d) {
  let batch = null
  for (let i = 0; i < steps.length; i++) {
    let [what, name, sql, ...args] = steps[i]
    if (what === 'own' && !env.WALPROXY) continue
    if (what === 'own') what = 'query'
    try {
      switch (what) {
        case 'simple': out(name, await d.simple(sql)); break
        case 'exec': out(name, (await d.query(sql, args.map(value))).count); break
        case 'query': {
          const { rows } = await d.query(sql, args.map(value))
          out(name, rows.map((r) => r.map(show).join('|')).join('; '))
          break
        }
        case 'batch': {
          const rows = []
          while (steps[i + 1][0] === '+') rows.push(steps[++i].slice(1).map(value))
          const ended = await Promise.allSettled(rows.map((r) => d.query(sql, r)))
          out(name, ended.map((e) => e.status === 'fulfilled' ? e.value.count : said(e.reason)).join('; '))
          break
        }
        case 'begin': await d.begin(); break
        case 'commit': case 'rollback': await d.end(what); break
        case 'copyin': out(name, await d.copyIn(sql, args.map((a) => a.slice(2).replaceAll('|', '\t') + '\n').join(''))); break
        case 'copyout': out(name, await d.copyOut(sql)); break
        default: throw new Error('unknown step ' + what)
      }
    } catch (e) {
      out(name, said(e))
    }
  }
  await d.close()
}

async function pg(named) {
  const { Client } = require('pg')
  const c = new Client({ host: env.PGHOST, port: env.PGPORT, user: env.PGUSER, password: env.PGPASSWORD, database: env.PGDATABASE, ssl: tls })
  await c.connect()
  const names = new Map()
  return {
    async simple(sql) { const r = await c.query(sql); return Array.isArray(r) ? r.map((x) => x.rowCount).join(',') : r.rowCount },
    async query(text, values) {
      if (named && !names.has(text)) names.set(text, 's' + names.size)
      const r = await c.query({ text, values, rowMode: 'array', name: named ? names.get(text) : undefined })
      return { rows: r.rows, count: r.rowCount }
    },
    begin: () => c.query('BEGIN'),
    end: (what) => c.query(what),
    copyIn: async () => 'not by this driver',
    copyOut: async () => 'not by this driver',
    close: () => c.end(),
  }
}

async function postgres(prepare) {
  const sql = require('postgres')({ host: env.PGHOST, port: env.PGPORT, username: env.PGUSER, password: env.PGPASSWORD, database: env.PGDATABASE,
    ssl: tls, max: 1, prepare, onnotice: () => {} })
  const one = await sql.reserve()
  return {
    async simple(text) { const r = await one.unsafe(text).simple(); return Array.isArray(r[0]) || r.length && r[0].command ? r.map((x) => x.count).join(',') : r.count },
    async query(text, values) { const r = await one.unsafe(text, values, { prepare }).values(); return { rows: r, count: r.count } },
    begin: () => one.unsafe('BEGIN'),
    end: (what) => one.unsafe(what),
    async copyIn(text, data) {
      const to = await one.unsafe(text).writable()
      await new Promise((resolve, reject) => { to.on('error', reject); to.on('finish', resolve); to.end(data) })
      return 'copied'
    },
    async copyOut(text) {
      let all = ''
      for await (const chunk of await one.unsafe(text).readable()) all += chunk
      return all.replaceAll('\t', '|').replaceAll('\n', ';')
    },
    async close() { one.release(); await sql.end() },
  }
}

const modes = { pg: () => pg(false), 'pg-named': () => pg(true), postgres: () => postgres(true), 'postgres-unprepared': () => postgres(false) }
modes[env.MODE]().then(main).catch((e) => { console.error(e); process.exit(1) })
