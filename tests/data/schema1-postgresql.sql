CREATE TABLE lease (
	device VARCHAR(200) NOT NULL, 
	owner TEXT NOT NULL, 
	epoch BIGINT NOT NULL, 
	expires_s FLOAT NOT NULL, 
	PRIMARY KEY (device)
);
CREATE TABLE meta (
	key VARCHAR(50) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (key)
);
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
CREATE INDEX ix_run_digest ON run (digest);
CREATE TABLE sample (
	run_id VARCHAR(40) NOT NULL, 
	case_key VARCHAR(40) NOT NULL, 
	round INTEGER NOT NULL, 
	name VARCHAR(40) NOT NULL, 
	codec VARCHAR(20) NOT NULL, 
	n INTEGER NOT NULL, 
	data BYTEA NOT NULL, 
	PRIMARY KEY (run_id, case_key, round, name)
);
CREATE TABLE process (
	run_id VARCHAR(40) NOT NULL, 
	case_key VARCHAR(40) NOT NULL, 
	round INTEGER NOT NULL, 
	doc JSON NOT NULL, 
	PRIMARY KEY (run_id, case_key, round), 
	FOREIGN KEY(run_id) REFERENCES run (id) ON DELETE CASCADE
);
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
CREATE INDEX result_series ON result (device, model_name, created_utc);
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
