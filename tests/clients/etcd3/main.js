// Every call of etcd3 that needs neither auth nor snapshots, good and bad, as a transcript: main.js ENDPOINT DEAD
'use strict';

const { EventEmitter } = require('events');

const { Etcd3, Range, EtcdLeaseInvalidError, isRecoverableError } = require('etcd3');

const SECONDS = 10;
const IDS = { cluster_id: 'cluster', member_id: 'member', memberID: 'member', leader: 'member', lease: 'lease' };
const NUMBERS = ['raft_term', 'raftTerm', 'raftIndex', 'dbSize', 'dbSizeInUse', 'raftAppliedIndex', 'hash'];

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

/** An answer as JSON, with what differs from run to run put between signs. */
function show(value, name = '') {
  if (Buffer.isBuffer(value)) return JSON.stringify(value.toString());
  if (name === 'keys') value = [...value].sort(Buffer.compare); // etcd goes through a map
  if (Array.isArray(value)) return `[${value.map(v => show(v, name)).join(', ')}]`;
  if (NUMBERS.includes(name)) return '<number>';
  if (name === 'version' && typeof value === 'string' && value.includes('.')) return '<version>';
  if (IDS[name] && value !== '0') return `<${IDS[name]}:${value}>`;
  if (name === 'ID') return String(value).length > 10 ? `<lease:${value}>` : String(value);
  if (name === 'TTL' && ['57', '58', '59', '60'].includes(value)) return 'in time';
  if (value && typeof value === 'object') {
    const fields = Object.keys(value).sort().filter(k => value[k] !== undefined);
    return `{${fields.map(k => `${k}: ${show(value[k], k)}`).join(', ')}}`;
  }
  return JSON.stringify(value) ?? 'nothing';
}

function within(promise, seconds = SECONDS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error('no answer in time')), seconds * 1000);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

const line = (name, result) => console.log(`${name} | ${String(result).replace(/\s+/g, ' ')}`);

async function call(name, f, shown = show) {
  try {
    const result = await within(Promise.resolve().then(f));
    line(name, shown(result));
    return result;
  } catch (e) {
    line(name, `error ${e.constructor.name} ${e.code ?? ''}: ${e.message}`);
    return undefined;
  }
}

/** Collects what an emitter says, for reading one by one. */
class Heard {
  constructor(emitter, ...names) {
    this.waiting = [];
    this.said = [];
    for (const name of names) {
      emitter.on(name, (...words) => {
        const text = `${name} ${words.map(w => (w instanceof Error ? `${w.constructor.name}: ${w.message}` : show(w))).join(' ')}`;
        const next = this.waiting.shift();
        next ? next(text) : this.said.push(text);
      });
    }
  }
  next() {
    if (this.said.length) return Promise.resolve(this.said.shift());
    return new Promise(resolve => this.waiting.push(resolve));
  }
}

async function keys(c) {
  await call('put a', () => c.put('a').value('1'));
  await call('put.getPrevious', () => c.put('a').value('2').getPrevious());
  await call('put a number', () => c.put('n').value(42).exec());
  await call('put a buffer', () => c.put(Buffer.from([255, 0])).value(Buffer.from([0, 1])).exec());
  await call('put an empty key', () => c.put('').value('x').exec());
  await call('put with an unknown lease', () => c.put('a').value('x').lease(4242).exec());
  await call('put 1.6 MiB', () => c.put('big').value('x'.repeat(1600000)).exec());
  await call('put.touch', () => c.put('a').touch());
  await call('put.touch of nothing', () => c.put('nothing').touch());
  await call('put.ignoreLease', () => c.put('a').value('3').ignoreLease().exec());
  await call('put.ignoreLease of nothing', () => c.put('nothing').value('3').ignoreLease().exec());
  await call('put with options', () => c.put('a').value('4').options({ deadline: Date.now() + 5000 }).exec());
  await call('put.getPrevious of nothing', () => c.put('fresh').value('1').getPrevious());
  await call('get', () => c.get('a'));
  await call('get.string', () => c.get('a').string());
  await call('get.string hex', () => c.get('a').string('hex'));
  await call('get.number', () => c.get('n').number());
  await call('get.buffer', () => c.get('a').buffer());
  await call('get.json', () => c.get('n').json());
  await call('get.exists', () => c.get('a').exists());
  await call('get.exists of nothing', () => c.get('nothing').exists());
  await call('get of nothing', () => c.get('nothing').string());
  await call('get.number of nothing', () => c.get('nothing').number());
  await call('get.exec', () => c.get('a').exec());
  await call('get.revision', () => c.get('a').revision(2).exec());
  await call('get of a future revision', () => c.get('a').revision(1000).exec());
  await call('get.serializable', () => c.get('a').serializable(true).string());
  await call('get an empty key', () => c.get('').string());
  await call('get.minModRevision', () => c.get('a').minModRevision(100).string());
  await call('get.maxModRevision', () => c.get('a').maxModRevision(100).string());
  await call('get.minCreateRevision', () => c.get('a').minCreateRevision(100).string());
  await call('get.maxCreateRevision', () => c.get('a').maxCreateRevision(100).string());
  for (const [k, v] of [['p/3', '1'], ['p/1', '3'], ['p/2', '2'], ['p/1', '4']]) {
    await call(`put ${k}`, () => c.put(k).value(v));
  }
  const all = () => c.getAll().prefix('p/');
  await call('getAll.prefix', () => all());
  await call('getAll.strings', () => all().strings());
  await call('getAll.numbers', () => all().numbers());
  await call('getAll.json', () => all().json());
  await call('getAll.buffers', () => all().buffers());
  await call('getAll.keys', () => all().keys());
  await call('getAll.keyBuffers', () => all().keyBuffers());
  await call('getAll.count', () => all().count());
  await call('getAll.limit', () => all().limit(2).exec());
  for (const target of ['Key', 'Version', 'Create', 'Mod', 'Value']) {
    for (const order of ['None', 'Ascend', 'Descend']) {
      await call(`getAll.sort ${target} ${order}`, () => all().sort(target, order).keys());
    }
  }
  await call('getAll.sort badly', () => all().sort('Size', 'Up').keys());
  await call('getAll.inRange', () => c.getAll().inRange(new Range('p/1', 'p/3')).strings());
  await call('getAll.inRange of an object', () => c.getAll().inRange({ start: 'a', end: 'p' }).keys());
  await call('getAll.inRange of a pair', () => c.getAll().inRange(['p', 'q']).keys());
  await call('getAll.all', () => c.getAll().all().keys());
  await call('getAll.revision', () => all().revision(9).strings());
  await call('getAll.minModRevision', () => all().minModRevision(11).keys());
  await call('Range.prefix', () => Range.prefix('p/').compare(Range.from({ prefix: 'q/' })));
  await call('range', () => c.range({ start: 'a', end: 'c' }).includes('b'));
  await call('delete.key', () => c.delete().key('a'));
  await call('delete.key of nothing', () => c.delete().key('nothing').exec());
  await call('delete.range', () => c.delete().range(new Range('p/1', 'p/2')).exec());
  await call('delete.inRange.getPrevious', () => c.delete().inRange({ start: 'p/2', end: 'p/3' }).getPrevious());
  await call('delete.prefix', () => c.delete().prefix('p/').exec());
  await call('delete an empty key', () => c.delete().key('').exec());
  await call('delete.all', () => c.delete().all().exec());
}

async function txns(c) {
  await call('put t', () => c.put('t').value('1'));
  const compares = [
    ['t', 'Value', '==', '1'], ['t', 'Value', '===', '2'], ['t', 'Value', '!=', '1'], ['t', 'Value', '!==', '2'],
    ['t', 'Version', '>', 0], ['t', 'Version', '<', 1], ['t', 'Create', '==', 0], ['none', 'Create', '==', 0],
    ['t', 'Mod', '<', 1000], ['t', 'Lease', '==', 0], ['none', 'Value', '==', ''],
  ];
  for (const compare of compares) {
    await call(`if ${compare.join(' ')}`, () => c.if(...compare).then(c.get('t')).else(c.get('none')).commit());
  }
  await call('if and', () => c.if('t', 'Version', '>', 0).and('t', 'Value', '==', '9').then(c.get('t')).commit());
  await call('if then everything', () =>
    c.if('t', 'Version', '>', 0)
      .then(c.put('t1').value('1'), c.put('t2').value('2'), c.getAll().prefix('t'), c.delete().key('t1x'))
      .commit());
  await call('if then delete', () => c.if('t', 'Version', '>', 0).then(c.delete().prefix('t1')).commit());
  await call('if then the same key twice', () =>
    c.if('t', 'Version', '>', 0).then(c.put('d').value('1'), c.put('d').value('2')).commit());
  await call('if of an empty key', () => c.if('', 'Version', '>', 0).commit());
  await call('if then a request', () =>
    c.if('t', 'Version', '>', 0).then({ request_put: { key: Buffer.from('r'), value: Buffer.from('1') } }).commit());
  await call('if then an unknown lease', () =>
    c.if('t', 'Version', '>', 0).then(c.put('t').value('1').lease(4242)).options({}).commit());
  const txn = { compare: [], success: [{ request_range: { key: Buffer.from('t') } }], failure: [] };
  await call('kv.txn nested', () => c.kv.txn({ compare: [], success: [{ request_txn: txn }], failure: [] }));

  for (const isolation of [0, 1, 2, 3]) {
    await call(`stm ${isolation}`, () => c.stm({ isolation }).transact(async tx => {
      const old = await tx.get('t').number();
      const none = await tx.get('none').string();
      await tx.put('t').value(old + 1);
      await tx.put('s').value('x');
      const own = await tx.get('s').string();
      await tx.delete().key('s');
      const gone = await tx.get('s').string();
      return [old, none, own, gone];
    }));
    let tries = 0;
    await call(`stm ${isolation} against another writer`, () => c.stm({ isolation, retries: 2 }).transact(async tx => {
      const old = await tx.get('t').number();
      if (++tries === 1) await c.put('t').value(old + 100);
      await tx.put('t').value(old + 1);
      return [tries, old];
    }));
    await call(`stm ${isolation} without retries`, () => c.stm({ isolation, retries: 0 }).transact(async tx => {
      const old = await tx.get('t').number();
      await c.put('t').value(old + 100);
      await tx.put('t').value(old + 1);
    }));
  }
  await call('stm prefetch', () => c.stm({ prefetch: ['t', 's'] }).transact(tx => tx.get('t').number()));
  await call('stm delete prefix', () => c.stm({ isolation: 2 }).transact(tx => tx.delete().prefix('s')));
  await call('stm delete prefix, snapshot', () => c.stm({ isolation: 0 }).transact(async tx => {
    await tx.get('t').string();
    await tx.delete().prefix('s');
  }));
  await call('stm with a lease', () => c.stm().transact(tx => tx.put('t').value('1').lease(1)));
  await call('stm that throws', () => c.stm().transact(() => { throw new Error('by hand'); }));
  await call('t after all', () => c.get('t').exec());
}

async function leases(c) {
  const lease = c.lease(60);
  const heard = new Heard(lease, 'lost', 'keepaliveFired', 'keepaliveEstablished');
  await call('lease.grant', () => lease.grant(), id => `<lease:${id}>`);
  await call('lease.state', () => lease.state);
  await call('lease keepaliveEstablished', () => heard.next());
  await call('lease keepaliveFired', () => heard.next());
  await call('lease.put', () => lease.put('l/1').value('1'));
  await call('lease.put.getPrevious', () => lease.put('l/1').value('2').getPrevious());
  await call('put.lease of a promise', () => c.put('l/2').value('1').lease(lease.grant()).exec());
  await call('get with a lease', () => c.getAll().prefix('l/').exec());
  await call('put.ignoreLease with one', () => c.put('l/2').value('2').ignoreLease().exec());
  await call('put.touch with one', () => c.put('l/2').touch());
  const id = await lease.grant();
  await call('leaseClient.leaseTimeToLive', () => c.leaseClient.leaseTimeToLive({ ID: id, keys: true }));
  await call('leaseClient.leaseLeases', () => c.leaseClient.leaseLeases(), r => r.leases.length);
  await call('lease.keepaliveOnce', () => lease.keepaliveOnce());
  await call('lease.revoked', () => lease.revoked());
  await call('lease.revoke', () => lease.revoke());
  await call('lease.revoked, revoked', () => [lease.revoked(), lease.state]);
  await call('lease.revoke again', () => lease.revoke());
  await call('lease.keepaliveOnce, revoked', () => lease.keepaliveOnce(), () => 'ok');
  await call('lease lost', () => heard.next(), s => s.replace(/\d{5,}/, '<lease>'));
  await call('lease.put, revoked', () => lease.put('l/1').value('1'));
  await call('get after the revoke', () => c.getAll().prefix('l/').keys());
  await call('lease of no time', () => c.lease(0));
  const long = c.lease(9000000001, { autoKeepAlive: false });
  await call('lease too long', () => long.grant());
  const raw = c.leaseClient;
  await call('leaseClient.leaseGrant', () => raw.leaseGrant({ TTL: 60, ID: 7000 }));
  await call('leaseClient.leaseGrant again', () => raw.leaseGrant({ TTL: 60, ID: 7000 }));
  await call('leaseClient.leaseRevoke', () => raw.leaseRevoke({ ID: 7000 }));
  await call('leaseClient.leaseRevoke unknown', () => raw.leaseRevoke({ ID: 7000 }));
  await call('leaseClient.leaseTimeToLive unknown', () => raw.leaseTimeToLive({ ID: 7000 }));
  await call('leaseClient.leaseKeepAlive', async () => {
    const stream = await raw.leaseKeepAlive();
    const answers = new Heard(stream, 'data');
    stream.on('error', () => undefined);
    stream.write({ ID: 7000 });
    const first = await answers.next();
    stream.end();
    return first;
  });

  const passive = c.lease(1, { autoKeepAlive: false });
  const gone = await call('watch of the short lease', () => c.watch().prefix('l/').withPreviousKV().create(), () => 'ok');
  const events = new Heard(gone, 'put', 'delete');
  await call('passive lease.put', () => passive.put('l/passive').value('1'));
  await call('passive put seen', () => events.next());
  await call('passive.release', () => passive.release());
  await call('passive expired', () => events.next());
  await call('passive.keepaliveOnce', () => passive.keepaliveOnce(), () => 'ok');
  await call('cancel', () => gone.cancel());

  const kept = c.lease(2);
  await call('kept lease.put', () => kept.put('l/kept').value('1'));
  await sleep(3500);
  await call('kept by keep-alives', () => c.get('l/kept').string());
  const losing = new Heard(kept, 'lost');
  await call('revoked by another', async () => raw.leaseRevoke({ ID: await kept.grant() }));
  await call('kept lost', () => losing.next(), s => s.replace(/\d{5,}/, '<lease>'));
}

async function watches(c, compacting) {
  const first = await call('put w/a', () => c.put('w/a').value('1').exec());
  const start = Number(first.header.revision);
  const w = await call('watch.key', () => c.watch().key('w/a').create(), w => `id=${w.id}`);
  const heard = new Heard(w, 'put', 'delete', 'end', 'error', 'disconnected');
  await call('put w/a 2', () => c.put('w/a').value('2'));
  await call('delete w/a', () => c.delete().key('w/a'));
  await call('event put', () => heard.next());
  await call('event delete', () => heard.next());
  await call('watcher.lastRevision', () => w.lastRevision());
  const p = await call('watch.prefix from a revision', () =>
    c.watch().prefix('w/').startRevision(String(start)).withPreviousKV().create(), w => `id=${w.id}`);
  const changes = new EventEmitter();
  p.on('data', d => d.events.length && changes.emit('data', d)); // every watcher of the library asks for progress, too
  const data = new Heard(changes, 'data');
  await call('data of the past', () => data.next());
  await call('txn', () => c.if('none', 'Create', '==', 0).then(c.put('w/a').value('3'), c.put('w/b').value('1')).commit());
  await call('data of a txn', () => data.next());
  for (const kind of ['put', 'delete']) {
    const o = await call(`watch.only ${kind}`, () => c.watch().inRange({ start: 'w/', end: 'w0' }).only(kind).create(), w => `id=${w.id}`);
    const only = new Heard(o, 'put', 'delete');
    await call(`put for only ${kind}`, () => c.put('w/o').value('1'));
    await call(`delete for only ${kind}`, () => c.delete().key('w/o'));
    await call(`event of only ${kind}`, () => only.next());
    await call(`cancel only ${kind}`, () => o.cancel());
  }
  const i = await call('watch.ignore', () => c.watch().prefix('w/').ignore('put').create(), w => `id=${w.id}`);
  await call('cancel ignore', () => i.cancel());
  await call('cancel', () => w.cancel());
  await call('end', async () => { let s; do s = await heard.next(); while (s !== 'end '); return s; });
  await call('cancel again the prefix', () => p.cancel());

  const future = start + 20;
  const f = await call('watch of the future', () => c.watch().prefix('w/').startRevision(String(future)).create(), () => 'ok');
  const later = new Heard(f, 'put');
  let at = 0;
  while (at < future + 1) at = Number((await c.put('w/f').value(String(at)).exec()).header.revision);
  await call('event of the future', () => later.next());
  await call('cancel the future', () => f.cancel());

  await call('kv.compact', () => c.kv.compact({ revision: future, physical: true }));
  await call('kv.compact again', () => c.kv.compact({ revision: future }));
  await call('kv.compact the future', () => c.kv.compact({ revision: future + 1000 }));
  await call('get of the compacted', () => c.get('w/a').revision(start).string());
  const old = compacting.watch().key('w/a').startRevision(String(start)).watcher();
  const compacted = new Heard(old, 'connected', 'error', 'disconnected');
  await call('watch of the compacted, first', () => compacted.next(), s => s.replace(/raft_term: <number>/, ''));
  await call('watch of the compacted, then', () => compacted.next());
  const none = await call('watch an empty key', () => compacting.watch().key('').create(), w => `id=${w.id}`);
  if (none) await call('cancel the empty key', () => none.cancel());

  const stream = await call('watchClient.watch', () => c.watchClient.watch(), () => 'ok');
  const answers = new Heard(stream, 'data');
  stream.on('error', () => undefined);
  const key = Buffer.from('w/x');
  const raw = async (name, request, count = 1) => {
    stream.write(request);
    for (let n = 0; n < count; n++) await call(`stream ${name} ${n}`, () => answers.next());
  };
  await raw('create', { create_request: { key, watch_id: 9, prev_kv: true, fragment: true } });
  await raw('create the same id', { create_request: { key, watch_id: 9 } });
  await raw('create another', { create_request: { key } });
  await raw('progress', { progress_request: {} });
  await raw('create compacted', { create_request: { key, start_revision: start } }, 2);
  await raw('cancel', { cancel_request: { watch_id: 9 } });
  await raw('cancel unknown, then create', { cancel_request: { watch_id: 99 } }, 0);
  await raw('create again', { create_request: { key, watch_id: 9 } });
  await raw('create with progress', { create_request: { key, progress_notify: true } }, 2);
  await call('stream end', () => stream.end(), () => 'ok');
}

async function namespaces(c) {
  const ns = c.namespace('ns/');
  await call('namespace put', () => ns.put('a').value('1').exec());
  await call('namespace get', () => ns.get('a').exec());
  await call('namespace getAll', () => ns.getAll().strings());
  await call('namespace if', () => ns.if('a', 'Value', '==', '1').then(ns.put('b').value('2'), ns.getAll()).commit());
  const w = await call('namespace watch', () => ns.watch().prefix('').create(), () => 'ok');
  const heard = new Heard(w, 'put', 'delete');
  await call('namespace lease', () => ns.lease(60).put('c').value('3'), () => 'ok');
  await call('namespace event', () => heard.next());
  await call('namespace stm', () => ns.stm().transact(async tx => { await tx.put('d').value('4'); }));
  await call('namespace of a namespace', () => ns.namespace('in/').put('e').value('5').exec());
  await call('namespace cancel', () => w.cancel());
  await call('all of them', () => c.getAll().prefix('ns/').keys());
  await call('namespace lock', () => ns.lock('lock').do(() => c.getAll().prefix('ns/lock').keys()));
  await call('namespace delete all', () => ns.delete().all().exec());
}

async function locks(c) {
  const lock = c.lock('lock').ttl(20);
  const second = c.lock('lock').ttl(20).options({});
  await call('lock.release before', () => lock.release());
  await call('lock.leaseId before', () => lock.leaseId());
  await call('lock.acquire', () => lock.acquire(), () => 'ok');
  await call('lock.leaseId', () => lock.leaseId(), id => `<lease:${id}>`);
  await call('lock.ttl after', () => lock.ttl(5), () => 'ok');
  await call('second lock.acquire', () => second.acquire(), () => 'ok');
  await call('lock.release', () => lock.release());
  await call('second lock.acquire, released', () => second.acquire(), () => 'ok');
  await call('second lock.release', () => second.release());
  await call('lock.do', () => c.lock('lock').do(() => 'held'));
  await call('lock.do that throws', () => c.lock('lock').do(() => { throw new Error('by hand'); }));
  await call('the lock is free', () => c.get('lock').exists());
}

async function elections(c) {
  const election = c.election('el', 20);
  await call('election.leader of nobody', () => election.leader());
  const observer = await call('election.observe', () => election.observe(), o => `${o.hasLeader} ${o.leader()}`);
  const changes = new Heard(observer, 'change', 'error');
  const one = election.campaign('one');
  await call('campaign.wait', () => one.wait(), () => 'elected');
  await call('change to one', () => changes.next());
  await call('campaign.getCampaignKey', () => one.getCampaignKey(), k => k.replace(/\d{5,}$/, '<lease>'));
  await call('election.leader', () => election.leader());
  await call('election.leader buffer', () => election.leader('buffer'));
  await call('campaign.proclaim', () => one.proclaim('uno'));
  await call('change to uno', () => changes.next());
  await call('campaign.proclaim the same', () => one.proclaim('uno'));
  const two = election.campaign('two');
  const elected = new Heard(two, 'elected', 'error');
  await call('campaign two key', () => two.getCampaignKey(), k => k.replace(/\d{5,}$/, '<lease>'));
  await sleep(300);
  await call('election.leader still', () => election.leader());
  await call('campaign.resign', () => one.resign());
  await call('campaign two elected', () => elected.next());
  await call('change to two', () => changes.next());
  await call('campaign.proclaim, resigned', () => one.proclaim('again'));
  await call('observer.leader', () => [observer.hasLeader, observer.leader()]);
  await call('campaign two resign', () => two.resign());
  await call('change to nobody', () => changes.next());
  await call('observer.cancel', () => observer.cancel());
}

async function settle(c) {
  // etcd drops a change of the membership that comes before raft has heard that the last one is applied.
  await c.put('settle').value('').exec();
  await sleep(200);
}

async function cluster(c) {
  const list = await call('cluster.memberList', () => c.cluster.memberList({}),
    r => show(r.members.map(m => ({ ...m, ID: undefined, memberID: m.ID }))));
  await call('maintenance.status', () => c.maintenance.status());
  await call('maintenance.hash', () => c.maintenance.hash());
  await call('maintenance.hashKV', () => c.maintenance.hashKV({ revision: 0 }));
  await call('maintenance.hashKV of the future', () => c.maintenance.hashKV({ revision: 100000 }));
  await call('maintenance.defragment', () => c.maintenance.defragment());
  await call('maintenance.alarm get', () => c.maintenance.alarm({ action: 'GET' }));
  await call('maintenance.alarm activate', () => c.maintenance.alarm({ action: 'ACTIVATE', alarm: 'NOSPACE' }));
  await call('maintenance.alarm deactivate', () => c.maintenance.alarm({ action: 'DEACTIVATE', alarm: 'NOSPACE' }));
  await call('maintenance.moveLeader to nobody', () => c.maintenance.moveLeader({ targetID: '42' }));
  await call('maintenance.downgrade validate', () => c.maintenance.downgrade({ action: 'VALIDATE', version: '3.4.0' }),
    () => 'ok');
  const id = list.members[0].ID;
  await call('cluster.memberUpdate unknown', () => c.cluster.memberUpdate({ ID: '42', peerURLs: ['http://127.0.0.1:1'] }));
  await settle(c);
  await call('cluster.memberUpdate to itself', () =>
    c.cluster.memberUpdate({ ID: id, peerURLs: list.members[0].peerURLs }), () => 'ok');
  await settle(c);
  await call('cluster.memberRemove unknown', () => c.cluster.memberRemove({ ID: '42' }));
  await settle(c);
  await call('cluster.memberAdd learner', () => c.cluster.memberAdd({ peerURLs: ['http://127.0.0.1:1'], isLearner: true }),
    r => r.members.length);
  await settle(c);
  await call('cluster.memberPromote unknown', () => c.cluster.memberPromote({ ID: '42' }));
  await settle(c);
  await call('cluster.memberRemove the only one', () => c.cluster.memberRemove({ ID: id }));
}

async function clients(live, dead) {
  const both = new Etcd3({ hosts: [`http://${dead}`, `http://${live}`], dialTimeout: 1000 });
  await call('two endpoints, one dead', async () => {
    const answers = [];
    for (let n = 0; n < 6; n++) {
      answers.push(await both.put('both').value(n).exec().then(() => 'ok', e => e.constructor.name));
    }
    return answers.includes('ok');
  });
  both.close();
  const gone = new Etcd3({ hosts: `http://${dead}`, dialTimeout: 1000 });
  await call('get from a dead endpoint', () => gone.get('a').string().catch(e => { throw new Error(e.constructor.name); }));
  gone.close();
  const closed = new Etcd3({ hosts: `http://${live}` });
  await call('close', () => closed.close());
  await call('get after close', () => closed.get('a').string());
  const mocked = new Etcd3({ hosts: `http://${live}` });
  mocked.mock({ exec: () => Promise.resolve({ kvs: [] }) });
  await call('mock', () => mocked.get('a').string());
  await call('unmock', async () => { mocked.unmock(); return mocked.get('both').exists(); });
  mocked.close();
  const options = { hosts: [live], defaultCallOptions: () => ({ deadline: Date.now() - 1000 }) };
  const late = new Etcd3(options);
  await call('get past its deadline', () => late.get('a').string().catch(e => { throw new Error(e.constructor.name); }));
  late.close();
  await call('isRecoverableError', () => isRecoverableError(new EtcdLeaseInvalidError('x')));
}

async function main() {
  const [live, dead] = process.argv.slice(2);
  process.on('unhandledRejection', e => {
    console.error(e);
    process.exit(1);
  });
  const c = new Etcd3({ hosts: `http://${live}` });
  const other = new Etcd3({ hosts: `http://${live}` });
  await keys(c);
  await txns(c);
  await leases(c);
  await watches(c, other);
  await namespaces(c);
  await locks(c);
  await elections(c);
  await clients(live, dead);
  await cluster(c);
  process.exit(0);
}

main();
