BEGIN TRANSACTION;
CREATE TABLE lease (
	device VARCHAR(200) NOT NULL, 
	owner TEXT NOT NULL, 
	epoch BIGINT NOT NULL, 
	expires_s FLOAT NOT NULL, 
	PRIMARY KEY (device)
);
CREATE TABLE meta (
	"key" VARCHAR(50) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('schema','1');
CREATE TABLE metric (
	result_id VARCHAR(40) NOT NULL, 
	name VARCHAR(60) NOT NULL, 
	unit VARCHAR(20) NOT NULL, 
	direction INTEGER NOT NULL, 
	value FLOAT NOT NULL, 
	lo FLOAT, 
	hi FLOAT, 
	PRIMARY KEY (result_id, name), 
	FOREIGN KEY(result_id) REFERENCES result (id) ON DELETE CASCADE
);
INSERT INTO "metric" VALUES('r10','latency_p50','ms',-1,11.0,10.78,11.22);
INSERT INTO "metric" VALUES('r10','load','ms',-1,80.5,NULL,NULL);
INSERT INTO "metric" VALUES('r10','first_inference','ms',-1,15.25,NULL,NULL);
INSERT INTO "metric" VALUES('r10','size','bytes',-1,1234567.0,NULL,NULL);
INSERT INTO "metric" VALUES('r11','latency_p50','ms',-1,11.0,10.78,11.22);
INSERT INTO "metric" VALUES('r11','load','ms',-1,80.5,NULL,NULL);
INSERT INTO "metric" VALUES('r11','first_inference','ms',-1,15.25,NULL,NULL);
INSERT INTO "metric" VALUES('r11','size','bytes',-1,1234567.0,NULL,NULL);
INSERT INTO "metric" VALUES('r20','latency_p50','ms',-1,12.0,11.76,12.24);
INSERT INTO "metric" VALUES('r20','load','ms',-1,80.5,NULL,NULL);
INSERT INTO "metric" VALUES('r20','first_inference','ms',-1,15.25,NULL,NULL);
INSERT INTO "metric" VALUES('r20','size','bytes',-1,1234567.0,NULL,NULL);
INSERT INTO "metric" VALUES('r21','latency_p50','ms',-1,12.0,11.76,12.24);
INSERT INTO "metric" VALUES('r21','load','ms',-1,80.5,NULL,NULL);
INSERT INTO "metric" VALUES('r21','first_inference','ms',-1,15.25,NULL,NULL);
INSERT INTO "metric" VALUES('r21','size','bytes',-1,1234567.0,NULL,NULL);
CREATE TABLE process (
	run_id VARCHAR(40) NOT NULL, 
	case_key VARCHAR(40) NOT NULL, 
	round INTEGER NOT NULL, 
	doc JSON NOT NULL, 
	PRIMARY KEY (run_id, case_key, round), 
	FOREIGN KEY(run_id) REFERENCES run (id) ON DELETE CASCADE
);
INSERT INTO "process" VALUES('20260101-010000-aaaaaa','6c9bd6ec62160285',0,'{"round": 0, "ended": {"how": "ok", "stage": "", "message": "", "signal": 0, "log_tail": []}, "attempt": 1, "facts": {"inputs": [{"name": "x", "dtype": "float32", "shape": [1, 4], "scale": [], "zero_point": [], "axis": null}], "outputs": [{"name": "y", "dtype": "float32", "shape": [1, 2], "scale": [], "zero_point": [], "axis": null}], "runtime_version": "1.32.0", "precision": "as stored", "inputs_from": "file", "python": "3.11.7", "numpy": "2.1.0"}, "placed": null, "load_ns": 80000000, "first_ns": 15000000, "every": 1, "warm_up_runs": 40, "warm_up_steady": true, "probe_run_ns": [10000000, 10000000, 10000000, 10000000, 10000000], "probe_read_ns": [12000, 12000, 12000, 12000, 12000], "probe_reread_ns": [11000, 11000, 11000, 11000, 11000], "outputs": [{"name": "y", "values": 2, "nan": 0, "inf": 0, "sha256": "0000000000000000000000000000000000000000000000000000000000000000"}], "output_constant": false, "readings": [{"source": "clock", "quantity": "boottime", "unit": "ns", "t_ns": [7000000000, 9000000000], "value": [7000000050, 9000000050], "missing": "", "text": ""}, {"source": "clock", "quantity": "realtime", "unit": "ns", "t_ns": [7000000000, 9000000000], "value": [1000000000000000000, 1000000002000001000], "missing": "", "text": ""}], "timed_from_ns": null, "job_id": "job0", "boot_id": "2b0a4f0e-1111-4222-8333-444455556666", "hot_start": false}');
INSERT INTO "process" VALUES('20260101-010000-aaaaaa','b32839de8bfef50a',0,'{"round": 0, "ended": {"how": "ok", "stage": "", "message": "", "signal": 0, "log_tail": []}, "attempt": 1, "facts": {"inputs": [{"name": "x", "dtype": "float32", "shape": [1, 4], "scale": [], "zero_point": [], "axis": null}], "outputs": [{"name": "y", "dtype": "float32", "shape": [1, 2], "scale": [], "zero_point": [], "axis": null}], "runtime_version": "1.32.0", "precision": "as stored", "inputs_from": "file", "python": "3.11.7", "numpy": "2.1.0"}, "placed": null, "load_ns": 80000000, "first_ns": 15000000, "every": 1, "warm_up_runs": 40, "warm_up_steady": true, "probe_run_ns": [10000000, 10000000, 10000000, 10000000, 10000000], "probe_read_ns": [12000, 12000, 12000, 12000, 12000], "probe_reread_ns": [11000, 11000, 11000, 11000, 11000], "outputs": [{"name": "y", "values": 2, "nan": 0, "inf": 0, "sha256": "0000000000000000000000000000000000000000000000000000000000000000"}], "output_constant": false, "readings": [{"source": "clock", "quantity": "boottime", "unit": "ns", "t_ns": [7000000000, 9000000000], "value": [7000000050, 9000000050], "missing": "", "text": ""}, {"source": "clock", "quantity": "realtime", "unit": "ns", "t_ns": [7000000000, 9000000000], "value": [1000000000000000000, 1000000002000001000], "missing": "", "text": ""}], "timed_from_ns": null, "job_id": "job0", "boot_id": "2b0a4f0e-1111-4222-8333-444455556666", "hot_start": false}');
INSERT INTO "process" VALUES('20260102-010000-aaaaaa','6c9bd6ec62160285',0,'{"round": 0, "ended": {"how": "ok", "stage": "", "message": "", "signal": 0, "log_tail": []}, "attempt": 1, "facts": {"inputs": [{"name": "x", "dtype": "float32", "shape": [1, 4], "scale": [], "zero_point": [], "axis": null}], "outputs": [{"name": "y", "dtype": "float32", "shape": [1, 2], "scale": [], "zero_point": [], "axis": null}], "runtime_version": "1.32.0", "precision": "as stored", "inputs_from": "file", "python": "3.11.7", "numpy": "2.1.0"}, "placed": null, "load_ns": 80000000, "first_ns": 15000000, "every": 1, "warm_up_runs": 40, "warm_up_steady": true, "probe_run_ns": [10000000, 10000000, 10000000, 10000000, 10000000], "probe_read_ns": [12000, 12000, 12000, 12000, 12000], "probe_reread_ns": [11000, 11000, 11000, 11000, 11000], "outputs": [{"name": "y", "values": 2, "nan": 0, "inf": 0, "sha256": "0000000000000000000000000000000000000000000000000000000000000000"}], "output_constant": false, "readings": [{"source": "clock", "quantity": "boottime", "unit": "ns", "t_ns": [7000000000, 9000000000], "value": [7000000050, 9000000050], "missing": "", "text": ""}, {"source": "clock", "quantity": "realtime", "unit": "ns", "t_ns": [7000000000, 9000000000], "value": [1000000000000000000, 1000000002000001000], "missing": "", "text": ""}], "timed_from_ns": null, "job_id": "job0", "boot_id": "2b0a4f0e-1111-4222-8333-444455556666", "hot_start": false}');
INSERT INTO "process" VALUES('20260102-010000-aaaaaa','b32839de8bfef50a',0,'{"round": 0, "ended": {"how": "ok", "stage": "", "message": "", "signal": 0, "log_tail": []}, "attempt": 1, "facts": {"inputs": [{"name": "x", "dtype": "float32", "shape": [1, 4], "scale": [], "zero_point": [], "axis": null}], "outputs": [{"name": "y", "dtype": "float32", "shape": [1, 2], "scale": [], "zero_point": [], "axis": null}], "runtime_version": "1.32.0", "precision": "as stored", "inputs_from": "file", "python": "3.11.7", "numpy": "2.1.0"}, "placed": null, "load_ns": 80000000, "first_ns": 15000000, "every": 1, "warm_up_runs": 40, "warm_up_steady": true, "probe_run_ns": [10000000, 10000000, 10000000, 10000000, 10000000], "probe_read_ns": [12000, 12000, 12000, 12000, 12000], "probe_reread_ns": [11000, 11000, 11000, 11000, 11000], "outputs": [{"name": "y", "values": 2, "nan": 0, "inf": 0, "sha256": "0000000000000000000000000000000000000000000000000000000000000000"}], "output_constant": false, "readings": [{"source": "clock", "quantity": "boottime", "unit": "ns", "t_ns": [7000000000, 9000000000], "value": [7000000050, 9000000050], "missing": "", "text": ""}, {"source": "clock", "quantity": "realtime", "unit": "ns", "t_ns": [7000000000, 9000000000], "value": [1000000000000000000, 1000000002000001000], "missing": "", "text": ""}], "timed_from_ns": null, "job_id": "job0", "boot_id": "2b0a4f0e-1111-4222-8333-444455556666", "hot_start": false}');
CREATE TABLE result (
	id VARCHAR(40) NOT NULL, 
	run_id VARCHAR(40) NOT NULL, 
	case_key VARCHAR(40) NOT NULL, 
	created_utc VARCHAR(40) NOT NULL, 
	device TEXT NOT NULL, 
	device_fingerprint TEXT, 
	model_name TEXT NOT NULL, 
	model_sha256 VARCHAR(64) NOT NULL, 
	runtime TEXT NOT NULL, 
	runtime_version TEXT, 
	delegate TEXT NOT NULL, 
	threads INTEGER NOT NULL, 
	status VARCHAR(20) NOT NULL, 
	doc JSON NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (run_id, case_key), 
	FOREIGN KEY(run_id) REFERENCES run (id) ON DELETE CASCADE
);
INSERT INTO "result" VALUES('r10','20260101-010000-aaaaaa','6c9bd6ec62160285','2026-01-01T01:00:00.000Z','pi5','f00d','net','abababababababababababababababababababababababababababababababab','onnxruntime','1.32.0','cpu',1,'OK','{"id": "r10", "device": "pi5", "device_info": {"model": "Board 5", "soc": "BCM2712", "os": "Debian 13", "kernel": null, "cpu": "Cortex-A76", "boot_id": null, "fingerprint": "f00d"}, "transport": "ssh", "emulated": false, "attempt": 1, "model": {"name": "net", "sha256": "abababababababababababababababababababababababababababababababab", "bytes": 1234567, "format": "onnx", "recipe": null, "inputs": null, "outputs": null}, "runtime": {"name": "onnxruntime", "version": "1.32.0", "precision": "as stored"}, "threads": 1, "cpus": null, "scenario": "single_stream", "delegate": {"requested": "cpu", "used": null, "accelerated_by": null, "adapter": null, "options": {}, "coverage": "n/a", "nodes": null, "nodes_delegated": null, "partitions": null, "on_cpu": null}, "status": "OK", "stage": null, "reasons": [], "load_ms": 80.5, "first_inference_ms": 15.25, "warm_up": null, "latency_ms": {"p50": 11.0, "ci95": [10.78, 11.22], "mean": 11.11, "min": 9.9, "max": 16.5, "p90": 12.100000000000001, "p90_upper": 12.32, "p95": 13.2, "p95_upper": 13.75, "p99": null, "p99_upper": null, "stdev_within": 0.22, "stdev_between": 0.11, "n": 480, "processes": 4}, "io_ms": null, "frame_ms": null, "real_time": null, "serial_rate_per_s": null, "cpu_per_wall": null, "run_delay_share": null, "load_avg": null, "memory_mb": null, "energy": null, "temperature_c": null, "cpu_mhz": null, "curve": null, "profile": null, "accuracy": null, "fidelity": null, "samples_ns": [], "plan": {"processes": 4, "seed": 7}, "environment": {}, "labels": {"branch": "main"}}');
INSERT INTO "result" VALUES('r11','20260101-010000-aaaaaa','b32839de8bfef50a','2026-01-01T01:00:00.000Z','pi5','f00d','net','abababababababababababababababababababababababababababababababab','onnxruntime','1.32.0','cpu',4,'OK','{"id": "r11", "device": "pi5", "device_info": {"model": "Board 5", "soc": "BCM2712", "os": "Debian 13", "kernel": null, "cpu": "Cortex-A76", "boot_id": null, "fingerprint": "f00d"}, "transport": "ssh", "emulated": false, "attempt": 1, "model": {"name": "net", "sha256": "abababababababababababababababababababababababababababababababab", "bytes": 1234567, "format": "onnx", "recipe": null, "inputs": null, "outputs": null}, "runtime": {"name": "onnxruntime", "version": "1.32.0", "precision": "as stored"}, "threads": 4, "cpus": null, "scenario": "single_stream", "delegate": {"requested": "cpu", "used": null, "accelerated_by": null, "adapter": null, "options": {}, "coverage": "n/a", "nodes": null, "nodes_delegated": null, "partitions": null, "on_cpu": null}, "status": "OK", "stage": null, "reasons": [], "load_ms": 80.5, "first_inference_ms": 15.25, "warm_up": null, "latency_ms": {"p50": 11.0, "ci95": [10.78, 11.22], "mean": 11.11, "min": 9.9, "max": 16.5, "p90": 12.100000000000001, "p90_upper": 12.32, "p95": 13.2, "p95_upper": 13.75, "p99": null, "p99_upper": null, "stdev_within": 0.22, "stdev_between": 0.11, "n": 480, "processes": 4}, "io_ms": null, "frame_ms": null, "real_time": null, "serial_rate_per_s": null, "cpu_per_wall": null, "run_delay_share": null, "load_avg": null, "memory_mb": null, "energy": null, "temperature_c": null, "cpu_mhz": null, "curve": null, "profile": null, "accuracy": null, "fidelity": null, "samples_ns": [], "plan": {"processes": 4, "seed": 7}, "environment": {}, "labels": {"branch": "main"}}');
INSERT INTO "result" VALUES('r20','20260102-010000-aaaaaa','6c9bd6ec62160285','2026-01-02T01:00:00.000Z','pi5','f00d','net','abababababababababababababababababababababababababababababababab','onnxruntime','1.32.0','cpu',1,'OK','{"id": "r20", "device": "pi5", "device_info": {"model": "Board 5", "soc": "BCM2712", "os": "Debian 13", "kernel": null, "cpu": "Cortex-A76", "boot_id": null, "fingerprint": "f00d"}, "transport": "ssh", "emulated": false, "attempt": 1, "model": {"name": "net", "sha256": "abababababababababababababababababababababababababababababababab", "bytes": 1234567, "format": "onnx", "recipe": null, "inputs": null, "outputs": null}, "runtime": {"name": "onnxruntime", "version": "1.32.0", "precision": "as stored"}, "threads": 1, "cpus": null, "scenario": "single_stream", "delegate": {"requested": "cpu", "used": null, "accelerated_by": null, "adapter": null, "options": {}, "coverage": "n/a", "nodes": null, "nodes_delegated": null, "partitions": null, "on_cpu": null}, "status": "OK", "stage": null, "reasons": [], "load_ms": 80.5, "first_inference_ms": 15.25, "warm_up": null, "latency_ms": {"p50": 12.0, "ci95": [11.76, 12.24], "mean": 12.120000000000001, "min": 10.8, "max": 18.0, "p90": 13.200000000000001, "p90_upper": 13.440000000000001, "p95": 14.399999999999999, "p95_upper": 15.0, "p99": null, "p99_upper": null, "stdev_within": 0.24, "stdev_between": 0.12, "n": 480, "processes": 4}, "io_ms": null, "frame_ms": null, "real_time": null, "serial_rate_per_s": null, "cpu_per_wall": null, "run_delay_share": null, "load_avg": null, "memory_mb": null, "energy": null, "temperature_c": null, "cpu_mhz": null, "curve": null, "profile": null, "accuracy": null, "fidelity": null, "samples_ns": [], "plan": {"processes": 4, "seed": 7}, "environment": {}, "labels": {"branch": "main"}}');
INSERT INTO "result" VALUES('r21','20260102-010000-aaaaaa','b32839de8bfef50a','2026-01-02T01:00:00.000Z','pi5','f00d','net','abababababababababababababababababababababababababababababababab','onnxruntime','1.32.0','cpu',4,'OK','{"id": "r21", "device": "pi5", "device_info": {"model": "Board 5", "soc": "BCM2712", "os": "Debian 13", "kernel": null, "cpu": "Cortex-A76", "boot_id": null, "fingerprint": "f00d"}, "transport": "ssh", "emulated": false, "attempt": 1, "model": {"name": "net", "sha256": "abababababababababababababababababababababababababababababababab", "bytes": 1234567, "format": "onnx", "recipe": null, "inputs": null, "outputs": null}, "runtime": {"name": "onnxruntime", "version": "1.32.0", "precision": "as stored"}, "threads": 4, "cpus": null, "scenario": "single_stream", "delegate": {"requested": "cpu", "used": null, "accelerated_by": null, "adapter": null, "options": {}, "coverage": "n/a", "nodes": null, "nodes_delegated": null, "partitions": null, "on_cpu": null}, "status": "OK", "stage": null, "reasons": [], "load_ms": 80.5, "first_inference_ms": 15.25, "warm_up": null, "latency_ms": {"p50": 12.0, "ci95": [11.76, 12.24], "mean": 12.120000000000001, "min": 10.8, "max": 18.0, "p90": 13.200000000000001, "p90_upper": 13.440000000000001, "p95": 14.399999999999999, "p95_upper": 15.0, "p99": null, "p99_upper": null, "stdev_within": 0.24, "stdev_between": 0.12, "n": 480, "processes": 4}, "io_ms": null, "frame_ms": null, "real_time": null, "serial_rate_per_s": null, "cpu_per_wall": null, "run_delay_share": null, "load_avg": null, "memory_mb": null, "energy": null, "temperature_c": null, "cpu_mhz": null, "curve": null, "profile": null, "accuracy": null, "fidelity": null, "samples_ns": [], "plan": {"processes": 4, "seed": 7}, "environment": {}, "labels": {"branch": "main"}}');
CREATE TABLE run (
	id VARCHAR(40) NOT NULL, 
	created_utc VARCHAR(40) NOT NULL, 
	finished_utc VARCHAR(40), 
	host TEXT NOT NULL, 
	tool_version VARCHAR(40) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	request JSON NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "run" VALUES('20260101-010000-aaaaaa','2026-01-01T01:00:00.000Z','2026-01-01T01:00:00.000Z','lab','0.1.0','f616757f2ce08fac183905a12f478c429fdcddee38c12b46a08afe22e676dffb','{"plan": {"processes": 6, "min_runs": 120, "max_runs": 10000, "min_time_s": 0.5, "max_time_s": 10.0, "warm_up_min_runs": 3, "warm_up_min_time_s": 0.5, "warm_up_max_time_s": 30.0, "cooldown_s": null, "seed": 5, "profile": false, "energy_s": null, "settle_s": 0.0}, "inputs": null, "workload": null, "labels": {}, "cases": [{"key": "6c9bd6ec62160285", "device": "pi5", "model": {"path": "/models/net.onnx", "sha256": "abababababababababababababababababababababababababababababababab", "recipe": null}, "runtime": "onnxruntime", "delegate": "cpu", "threads": 1, "cpus": [], "shapes": [], "signature": null, "setup": {"base": null, "options": [], "files": []}, "scenario": "single_stream"}, {"key": "b32839de8bfef50a", "device": "pi5", "model": {"path": "/models/net.onnx", "sha256": "abababababababababababababababababababababababababababababababab", "recipe": null}, "runtime": "onnxruntime", "delegate": "cpu", "threads": 4, "cpus": [], "shapes": [["x", [1, 4]]], "signature": "serve", "setup": {"base": null, "options": [], "files": []}, "scenario": "single_stream"}]}');
INSERT INTO "run" VALUES('20260102-010000-aaaaaa','2026-01-02T01:00:00.000Z',NULL,'lab','0.1.0','f616757f2ce08fac183905a12f478c429fdcddee38c12b46a08afe22e676dffb','{"plan": {"processes": 6, "min_runs": 120, "max_runs": 10000, "min_time_s": 0.5, "max_time_s": 10.0, "warm_up_min_runs": 3, "warm_up_min_time_s": 0.5, "warm_up_max_time_s": 30.0, "cooldown_s": null, "seed": 5, "profile": false, "energy_s": null, "settle_s": 0.0}, "inputs": null, "workload": null, "labels": {}, "cases": [{"key": "6c9bd6ec62160285", "device": "pi5", "model": {"path": "/models/net.onnx", "sha256": "abababababababababababababababababababababababababababababababab", "recipe": null}, "runtime": "onnxruntime", "delegate": "cpu", "threads": 1, "cpus": [], "shapes": [], "signature": null, "setup": {"base": null, "options": [], "files": []}, "scenario": "single_stream"}, {"key": "b32839de8bfef50a", "device": "pi5", "model": {"path": "/models/net.onnx", "sha256": "abababababababababababababababababababababababababababababababab", "recipe": null}, "runtime": "onnxruntime", "delegate": "cpu", "threads": 4, "cpus": [], "shapes": [["x", [1, 4]]], "signature": "serve", "setup": {"base": null, "options": [], "files": []}, "scenario": "single_stream"}]}');
CREATE TABLE sample (
	run_id VARCHAR(40) NOT NULL, 
	case_key VARCHAR(40) NOT NULL, 
	round INTEGER NOT NULL, 
	name VARCHAR(40) NOT NULL, 
	codec VARCHAR(20) NOT NULL, 
	n INTEGER NOT NULL, 
	data BLOB NOT NULL, 
	PRIMARY KEY (run_id, case_key, round, name)
);
INSERT INTO "sample" VALUES('20260101-010000-aaaaaa','6c9bd6ec62160285',0,'run_ns','u32le+zlib',8,X'7801012000DFFFA4C79800EE629800779199007FBF9800D0C597000024990035979A00350A9A00EE530C8B');
INSERT INTO "sample" VALUES('20260101-010000-aaaaaa','6c9bd6ec62160285',0,'io_ns','u32le+zlib',8,X'780153F0636050C083013B900371');
INSERT INTO "sample" VALUES('20260101-010000-aaaaaa','b32839de8bfef50a',0,'run_ns','u32le+zlib',8,X'7801012000DFFFA4C79800EE629800779199007FBF9800D0C597000024990035979A00350A9A00EE530C8B');
INSERT INTO "sample" VALUES('20260101-010000-aaaaaa','b32839de8bfef50a',0,'io_ns','u32le+zlib',8,X'780153F0636050C083013B900371');
INSERT INTO "sample" VALUES('20260102-010000-aaaaaa','6c9bd6ec62160285',0,'run_ns','u32le+zlib',8,X'7801012000DFFFA4C79800EE629800779199007FBF9800D0C597000024990035979A00350A9A00EE530C8B');
INSERT INTO "sample" VALUES('20260102-010000-aaaaaa','6c9bd6ec62160285',0,'io_ns','u32le+zlib',8,X'780153F0636050C083013B900371');
INSERT INTO "sample" VALUES('20260102-010000-aaaaaa','b32839de8bfef50a',0,'run_ns','u32le+zlib',8,X'7801012000DFFFA4C79800EE629800779199007FBF9800D0C597000024990035979A00350A9A00EE530C8B');
INSERT INTO "sample" VALUES('20260102-010000-aaaaaa','b32839de8bfef50a',0,'io_ns','u32le+zlib',8,X'780153F0636050C083013B900371');
CREATE INDEX ix_run_digest ON run (digest);
CREATE INDEX result_series ON result (device, model_name, created_utc);
COMMIT;
