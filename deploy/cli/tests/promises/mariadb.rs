//! A real database that speaks first, with its own client.

use std::sync::Arc;

use anyhow::ensure;

use crate::{
    Outcome, Tests,
    manifest::{allow_tcp, member, pod, service},
    scene::Scene,
    world::{World, find_program},
};

/// Makes a database without password in a volume and serves it; only this pod's sidecar can reach it.
const DATABASE: &str = "set -e
mariadb-install-db --no-defaults --user=root --datadir=/data --skip-test-db \
    --auth-root-authentication-method=normal >/data/install.log 2>&1 || { cat /data/install.log; exit 1; }
cat >/data/init.sql <<'SQL'
CREATE USER IF NOT EXISTS 'reader'@'%' IDENTIFIED BY 'secret';
CREATE DATABASE IF NOT EXISTS shelf;
CREATE TABLE IF NOT EXISTS shelf.books (title TEXT);
INSERT INTO shelf.books VALUES ('Weir');
GRANT SELECT ON shelf.* TO 'reader'@'%';
SQL
exec mariadbd --no-defaults --user=root --datadir=/data --socket=/data/my.sock --pid-file=/data/my.pid \
    --port=3306 --bind-address=127.0.0.1 --skip-name-resolve --init-file=/data/init.sql \
    --innodb-buffer-pool-size=8M --innodb-log-file-size=4M --skip-log-bin";

pub(crate) fn tests(tests: &mut Tests<'_>) {
    tests.add_if(
        "mariadb::a_client_with_a_tcp_route_reads_a_table_and_another_is_refused",
        installed(),
        |world, ()| database(world),
    );
}

fn installed() -> Result<(), String> {
    let missing: Vec<_> = ["mariadbd", "mariadb-install-db", "mariadb"]
        .into_iter()
        .filter(|name| find_program(name).is_none())
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "there is no {}; install MariaDB (Debian: apt-get install mariadb-server mariadb-client)",
            missing.join(", ")
        )),
    }
}

async fn database(world: Arc<World>) -> Outcome {
    let script = DATABASE.replace('\n', "\n    ");
    let script = format!(
        "---
apiVersion: v1
kind: ConfigMap
metadata: {{name: scripts, namespace: $NS}}
data:
  database.sh: |
    {script}
"
    );
    let container = "{name: app, image: none, command: [sh, /scripts/database.sh], \
        readinessProbe: {tcpSocket: {port: 3306}, periodSeconds: 1, failureThreshold: 120}, \
        volumeMounts: [{name: scripts, mountPath: /scripts}, {name: data, mountPath: /data}]}";
    let volumes = "[{name: scripts, configMap: {name: scripts}}, {name: data, emptyDir: {}}]";
    let parts = [
        script,
        pod("database", "database", "", container, volumes),
        service("database", "{name: mysql, port: 3306, appProtocol: tcp}"),
        member("reader"),
        member("stranger"),
        allow_tcp("database", &["reader"], "3306"),
    ];
    let scene = Scene::open(world, "mariadb", &parts).await?;
    let select = [
        "mariadb",
        "--no-defaults",
        "--host=database",
        "--user=reader",
        "--password=secret",
        "--skip-ssl",
        "--connect-timeout=5",
        "--batch",
        "--skip-column-names",
        "--execute=SELECT title FROM shelf.books",
    ];
    let titles = scene
        .eventually("SELECT works", || scene.exec("reader", &select))
        .await?;
    ensure!(titles.trim() == "Weir", "the table holds {titles:?}");
    let refused = scene.exec("stranger", &select).await;
    ensure!(refused.is_err(), "a stranger read {refused:?}");
    Ok(())
}
