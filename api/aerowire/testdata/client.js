const Aerospike = require('aerospike')
const [host, port] = process.argv[2].split(':')
const op = Aerospike.operations, lists = Aerospike.lists, maps = Aerospike.maps
function check (what, got, want) { if (JSON.stringify(got) !== JSON.stringify(want)) { console.log('FAIL', what, JSON.stringify(got), 'want', JSON.stringify(want)); process.exitCode = 1 } else console.log('ok', what) }
async function refused (what, code, f) { try { await f(); check(what, 'no error', code) } catch (e) { check(what, e.code, code) } }
;(async () => {
  const client = await Aerospike.connect({ hosts: [{ addr: host, port: +port }], log: { level: Aerospike.log.OFF }, policies: { read: new Aerospike.ReadPolicy({ totalTimeout: 60000, socketTimeout: 60000 }), write: new Aerospike.WritePolicy({ totalTimeout: 60000, socketTimeout: 60000 }), operate: new Aerospike.OperatePolicy({ totalTimeout: 60000, socketTimeout: 60000 }), remove: new Aerospike.RemovePolicy({ totalTimeout: 60000 }), batch: new Aerospike.BatchPolicy({ totalTimeout: 60000, socketTimeout: 60000 }), scan: new Aerospike.ScanPolicy({ totalTimeout: 60000 }) } })
  try {
    const k = new Aerospike.Key('test', 'node', 'one')
    await client.put(k, { i: 1, s: 'text', f: 1.5, b: Buffer.from([0, 255]), l: [1, 'two', [3]], m: { a: 1, b: [2] }, t: true })
    let rec = await client.get(k)
    check('get', [rec.bins.i, rec.bins.s, rec.bins.f, [...rec.bins.b], rec.bins.l, rec.bins.m.b, rec.bins.t, rec.gen], [1, 'text', 1.5, [0, 255], [1, 'two', [3]], [2], true, 1])
    check('select', (await client.select(k, ['i'])).bins, { i: 1 })
    check('exists', await client.exists(k), true)
    rec = await client.operate(k, [op.incr('i', 4), op.append('s', '!'), op.read('i'), op.read('s')])
    check('operate', rec.bins, { i: 5, s: 'text!' })
    rec = await client.operate(k, [lists.append('l', 9), lists.getByIndex('l', -1, lists.returnType.VALUE)])
    check('list', rec.bins.l, 9)
    rec = await client.operate(k, [maps.put('m', 'c', 7), maps.getByKey('m', 'c', maps.returnType.VALUE)])
    check('map', rec.bins.m, 7)
    await refused('create', Aerospike.status.ERR_RECORD_EXISTS, () => client.put(k, { i: 1 }, {}, new Aerospike.WritePolicy({ exists: Aerospike.policy.exists.CREATE })))
    await refused('generation', Aerospike.status.ERR_RECORD_GENERATION, () => client.put(k, { i: 1 }, { gen: 99 }, new Aerospike.WritePolicy({ gen: Aerospike.policy.gen.EQ })))
    await client.put(k, { i: 2 }, { ttl: 1000 })
    rec = await client.get(k)
    check('ttl', rec.ttl > 900 && rec.ttl <= 1001, true)
    const keys = []
    for (let i = 0; i < 50; i++) { const key = new Aerospike.Key('test', 'many', i); keys.push(key); await client.put(key, { i }) }
    const batch = await client.batchRead(keys.map(key => ({ key, readAllBins: true })))
    check('batch read', batch.map(r => r.record.bins.i), keys.map((_, i) => i))
    const written = await client.batchWrite([{ type: Aerospike.batchType.BATCH_WRITE, key: keys[0], ops: [op.write('x', 1)] }, { type: Aerospike.batchType.BATCH_REMOVE, key: keys[1] }, { type: Aerospike.batchType.BATCH_READ, key: keys[0], readAllBins: true }])
    check('batch write', [written.map(r => r.status), written[2].record.bins], [[0, 0, 0], { i: 0, x: 1 }])
    let seen = 0
    await new Promise((resolve, reject) => { const s = client.scan('test', 'many').foreach(); s.on('data', () => seen++); s.on('error', reject); s.on('end', resolve) })
    check('scan', seen, 49)
    await refused('filter', Aerospike.status.FILTERED_OUT, () => client.get(k, new Aerospike.ReadPolicy({ filterExpression: Aerospike.exp.eq(Aerospike.exp.binInt('i'), Aerospike.exp.int(3)) })))
    await client.remove(k)
    check('removed', await client.exists(k), false)
    await client.truncate('test', 'many', 0)
    check('truncated', await client.exists(keys[5]), false)
  } finally { client.close() }
})().catch(e => { console.log('FAIL', e); process.exitCode = 1 })
