package main

// The tests that most of them fail.
var (
	powerCut = killer{pkg: "./wal", test: "TestPowerCutAtEveryCall"}
	used     = killer{pkg: "./wal", test: "TestPowerCutInUsedFiles"}
	recorded = killer{pkg: "./wal", test: "TestPowerCutAtEveryCallRecorded"}
	failure  = killer{pkg: "./wal", test: "TestFailureAtEveryCall"}
	ahead    = killer{pkg: "./wal", test: "TestPowerCutInWritesAhead"}

	repairCut = killer{pkg: "./wal", test: "TestPowerCutAtEveryCallOfRepair"}
)

func inWal(test string) killer { return killer{pkg: "./wal", test: test} }

// without is what stands in the place of a call that was taken out.
const without = "error(nil)"

var mutants = []mutant{
	// Syncs of directories.
	{"syncdir: a new directory above the log", "internal/vfs/vfs.go",
		"if err := fsys.SyncDir(filepath.Dir(dir)); err != nil {", "if err := " + without + "; err != nil {",
		[]killer{powerCut, {pkg: "./internal/vfs", test: "TestMkdirAllSync"}}},
	{"syncdir: the lowest directory that is there", "internal/vfs/vfs.go",
		"if err := fsys.SyncDir(filepath.Dir(dir)); err != nil && !notOurs(err) {", "if err := " + without + "; err != nil && !notOurs(err) {",
		[]killer{powerCut, {pkg: "./internal/vfs", test: "TestMkdirAllSync"}}},
	{"syncdir: a directory whose sync failed is taken away", "internal/vfs/vfs.go",
		"return errors.Join(err, fsys.Remove(dir))", "return err", []killer{failure}},
	{"syncdir: FORMAT.new, before Attach", "wal/format.go",
		"		return err\n	}\n	return s.fs.SyncDir(s.dir)\n}\n\n// nothingBeside", "		return err\n	}\n	return nil\n}\n\n// nothingBeside", []killer{powerCut}},
	{"syncdir: the log's directories", "wal/start.go",
		"			return err\n		}\n	}\n	return s.fs.SyncDir(s.dir)", "			return err\n		}\n	}\n	return nil", []killer{powerCut}},
	{"syncdir: a prepared segment's file", "wal/commit.go",
		"if p.err = l.o.FS.SyncDir(p.dir); p.err == nil {", "if p.err == nil {", []killer{powerCut}},
	{"syncdir: a prepared segment", "wal/commit.go",
		"p.err = l.o.FS.SyncDir(filepath.Dir(p.dir))", "p.err = nil", []killer{powerCut}},
	{"syncdir: a rewritten tail", "wal/recover.go",
		"			return err\n		}\n		return s.fs.SyncDir(f.dir)", "			return err\n		}\n		return nil", []killer{powerCut}},
	{"syncdir: what is set aside", "wal/recover.go",
		"		return err\n	}\n	return s.fs.SyncDir(s.quarantineDir())", "		return err\n	}\n	return nil", []killer{powerCut}},
	{"syncdir: a freed segment, before the next one", "wal/release.go",
		"if err := l.o.FS.SyncDir(segments); err != nil {", "if err := " + without + "; err != nil {", []killer{used}},

	// Syncs of files.
	{"sync: a group (native)", "wal/native.go", "return f.file.Datasync()", "return nil", []killer{powerCut}},
	{"sync: a new FORMAT or watermark", "wal/format.go", "		return err\n	}\n	return f.Sync()", "		return err\n	}\n	return nil", []killer{powerCut}},
	{"sync: a rewritten tail", "wal/recover.go", "return dst.Sync()", "return nil", []killer{powerCut}},
	{"sync: the watermark", "wal/watermark.go", "if err := f.file.Datasync(); err != nil {", "if err := " + without + "; err != nil {", []killer{powerCut}},
	{"sync: a start's header", "wal/log.go",
		"if err := l.writer.file.sync(); err != nil {", "if err := " + without + "; err != nil {", []killer{powerCut}},

	// After a failure.
	{"poison: a failed group", "wal/commit.go",
		"	if err != nil {\n		l.poisonLocked(err)\n	}\n	if err = l.mu.err; err == nil {", "	if err == nil {",
		[]killer{failure, inWal("TestPoison")}},
	{"poison: a failed write ahead", "wal/ahead.go", "		l.poisonLocked(err)\n", "", []killer{inWal("TestWriteAheadFails"), inWal("TestFailureInWritesAhead")}},
	{"poison: nothing is written ahead after it", "wal/ahead.go", " && l.mu.err == nil", "", []killer{inWal("TestNoWriteAheadAfterFailure")}},
	{"poison: a failed sync is tried again", "wal/commit.go",
		"if err := w.file.sync(); err != nil {", "if err := w.file.sync(); err != nil && w.file.sync() != nil {", []killer{failure}},
	{"poison: a failed watermark", "wal/commit.go",
		"if err := l.writeWatermark(1); err != nil {\n			l.poison(err)\n		}", "_ = l.writeWatermark(1)", []killer{failure}},
	{"poison: no clean mark after it", "wal/log.go", "	if l.Err() != nil {\n		l.writer.file.abandon()", "	if false {\n		l.writer.file.abandon()", []killer{failure}},
	{"the tail is rewritten unless the stop was clean", "wal/recover.go",
		"if len(s.segments) == 0 || s.tail.clean {", "if len(s.segments) == 0 || !s.tail.cut {", []killer{failure}},
	{"FORMAT is written again after a creation that failed", "wal/format.go",
		"return s.renewFormat(path)", "return nil", []killer{failure}},

	// What was durable.
	{"durable LSN: not above what was synced when a frame was written", "wal/commit.go",
		"b.durable = l.mu.durable //", "b.durable = b.last() //", []killer{powerCut}},
	{"durable LSN: not above what was synced when a frame was written ahead", "wal/commit.go",
		"b.durable = l.mu.durable //", "b.durable = b.first - 1 //", []killer{ahead}},
	{"durable LSN: not above what was written when its fsync began", "wal/commit.go",
		"l.mu.durable = g.last()", "l.mu.durable = l.writer.end.last", []killer{inWal("TestWriteAhead")}},
	{"durable LSN: who reads a segment's file stops there", "wal/reader.go",
		"r.file.scanner.limit = seg.end.offset", "r.file.scanner.limit = seg.end.offset + 1<<12", []killer{inWal("TestWriteAhead")}},
	{"durable LSN: who opens a segment's file stops there", "wal/reader.go",
		"layout: seg.layout, limit: seg.end.offset}", "layout: seg.layout, limit: seg.end.offset + 1<<12}", []killer{inWal("TestWriteAhead")}},
	{"used: who reads on in a freed file is told so", "wal/reader.go",
		"if kept := r.log.First(); r.next < kept {", "if kept := LSN(0); r.next < kept {", []killer{inWal("TestReaderOfRecycledFile")}},
	{"a segment is activated when what was written ahead to the one before is durable", "wal/commit.go",
		" || !l.hasRoom(b.frames)", "", []killer{inWal("TestNextSegmentWaits")}},
	{"a log is sealed when what was written ahead is durable", "wal/commit.go",
		"case l.mu.err == nil && len(q.written) > 0 && l.leaveRest():", "case l.mu.err == nil && !l.mu.sealed && len(q.written) > 0 && l.leaveRest():",
		[]killer{inWal("TestSealWhileWrittenAhead")}},
	{"durable LSN: a later frame is a witness", "wal/start.go",
		"if ok && h.durable > witness {", "if ok && h.durable > witness && what == \"\" {", []killer{inWal("TestLaterFrameIsWitness")}},
	{"durable LSN: the watermark is a witness", "wal/start.go",
		"witness, what := s.mark.durable, \"the watermark\"", "witness, what := LSN(0), \"the watermark\"", []killer{powerCut, inWal("TestTornTail")}},
	{"durable LSN: the watermark is written when the log falls idle", "wal/commit.go",
		"	if err == nil {\n		l.idle.Reset(watermarkDelay)\n	}", "", []killer{powerCut}},
	{"a segment without its header is damage if the watermark knows of it", "wal/start.go",
		"if s.mark.segment <= newest {", "if s.mark.segment <= newest || true {", []killer{inWal("TestDamagedFiles")}},
	{"a frame verifies in its segment only", "wal/frame.go", "le.PutUint64(b[32:], seq)", "_ = seq", []killer{inWal("TestFrameVerifiesOnlyInPlace")}},
	{"a frame verifies at its offset only", "wal/frame.go",
		"state ^= offsetTables[i&7][byte(rest)]", "_ = offsetTables[i&7][byte(rest)]", []killer{inWal("TestFrameVerifiesOnlyInPlace")}},
	{"every start begins an incarnation", "wal/log.go",
		"l.incarnations = known.begin(uuid.New(), s.tail.end.last+1)",
		"if l.incarnations = known; len(known) == 0 {\n		l.incarnations = known.begin(uuid.New(), s.tail.end.last+1)\n	}", []killer{inWal("TestOlderCopyDiverges")}},

	// Space.
	{"the watermark knows what is freed before it is", "wal/release.go", "		w.first = next\n", "		_ = next\n", []killer{inWal("TestReleaseThenDamagedSlot")}},
	{"freed: both slots of the watermark say so", "wal/release.go", "l.mark.write(2, func", "l.mark.write(1, func", []killer{inWal("TestReleaseThenDamagedSlot")}},
	{"freed: only below the sinks' checkpoints", "space.go", "p.log.Release(low + 1)", "p.log.Release(p.log.Durable() + 1)",
		[]killer{{pkg: ".", test: "TestDueNeverGivesWay"}}},
	{"freed: nothing that a sink lacks, however little room is left", "space.go", "passed = min(passed, has)", "_ = has",
		[]killer{{pkg: ".", test: "TestDueNeverGivesWay"}}},
	// Files that are used again.
	{"used: zeros are durable before the name", "wal/native.go", "return f.file.Sync()", "return nil", []killer{inWal("TestUsedFileIsBlankBeforeItsName")}},
	{"used: a file begins with zeros", "wal/native.go", "f.file.WriteAt(zeros[:min(nativeBlank, f.size)], 0)", "f.file.WriteAt(nil, 0)",
		[]killer{inWal("TestUsedFileIsBlankBeforeItsName"), inWal("TestRecycle")}},
	{"used: zeros behind the frames", "wal/native.go", "b = append(b, zeros[:min(appendSlack, max(f.size-f.end-n, 0))]...)", "", []killer{inWal("TestRecycle")}},
	{"used: a stale frame is room, whatever its checksum", "wal/scan.go", "return h.lsn >= s.next", "return true", []killer{inWal("TestStaleFramesThatVerify")}},
	{"used: a stale frame is no record, whatever its checksum", "wal/start.go", "return h.lsn >= base", "return h.lsn >= base || true",
		[]killer{inWal("TestStaleFramesThatVerify")}},
	{"used: not what a snapshot has", "wal/spare.go", "|| !unshared(info)", "", []killer{inWal("TestSnapshotKeepsItsFiles")}},

	{"scan: what a second processor passed counts from the frame that the first one comes to", "wal/tandem.go",
		"if !p.intact || sc.offset != offset || sc.next != next {", "if _, _ = offset, next; !p.intact {", []killer{inWal("TestTandem"), inWal("TestScanMapped")}},

	// The engine tidwall, on a mount whose calls are recorded.
	{"sync: a group (tidwall)", "wal/tidwall.go", "return f.log.Sync()", "return nil", []killer{recorded}},
	{"syncdir: a prepared segment's file (tidwall)", "wal/commit.go",
		"if p.err = l.o.FS.SyncDir(p.dir); p.err == nil {", "if p.err == nil {", []killer{recorded}},
	{"syncdir: a prepared segment (tidwall)", "wal/commit.go",
		"p.err = l.o.FS.SyncDir(filepath.Dir(p.dir))", "p.err = nil", []killer{recorded}},
	{"durable LSN: not above what was synced when a frame was written (tidwall)", "wal/commit.go",
		"b.durable = l.mu.durable //", "b.durable = b.last() //", []killer{recorded}},

	// Repair.
	{"repair: staged names are synced before the decision", "wal/repair_apply.go",
		"if err := errors.Join(r.fs.SyncDir(r.path(repairNew)), r.fs.SyncDir(r.dir)); err != nil {", "if err := " + without + "; err != nil {", []killer{repairCut}},
	{"repair: staged files are synced before the decision", "wal/repair_apply.go",
		"if err := f.Sync(); err != nil {", "if err := " + without + "; err != nil {", []killer{repairCut}},
	{"repair: what a killed one had put in place is synced", "wal/repair_apply.go",
		"return r.fs.SyncDir(here) // done", "return nil // done", []killer{repairCut}},
	{"repair: the end of a killed one is synced", "wal/repair.go", "return r.ended()", "return nil", []killer{repairCut}},
	{"repair: no start takes the log before it is finished", "wal/start.go",
		"if err := s.noRepair(); err != nil {", "if err := s.noRepair(); err != nil && false {", []killer{inWal("TestCrashInRepair")}},
}
