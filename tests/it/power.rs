//! Meters and heat against the file trees of real boards, as NVIDIA and the kernel document them.

use std::fs;
use std::path::Path;
use tempfile::TempDir;
use vovcam::board::Board;
use vovcam::monitor::power::{Reading, find, heat};
use vovcam::units::{Celsius, Joules, Watts};

/// A root with these files.
fn tree(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        write(root.path(), path, text);
    }
    root
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Scope, source and first reading of the meter that is found, and the complaints on the way.
fn meter(root: &TempDir) -> (Option<(String, &'static str, Reading)>, Vec<String>) {
    let mut reasons = Vec::new();
    let found = find(root.path(), None, &mut reasons).map(|mut meter| {
        let info = meter.info();
        (info.scope, info.source, meter.read().unwrap())
    });
    (found, reasons)
}

fn power(root: &TempDir) -> (String, &'static str, f64) {
    match meter(root) {
        (Some((scope, source, Reading::Power(Watts(watts)))), reasons) if reasons.is_empty() => {
            (scope, source, watts)
        }
        other => panic!("{other:?}"),
    }
}

const ORIN: &str = "sys/bus/i2c/devices/1-0040";

#[test]
fn orin_nano_on_jetpack_6_reports_its_input_rail_alone() {
    let file = |name: &str| format!("{ORIN}/hwmon/hwmon4/{name}");
    let files = [
        (format!("{ORIN}/name"), "ina3221\n"),
        (file("in1_label"), "VDD_IN\n"),
        (file("in1_input"), "5000\n"),
        (file("curr1_input"), "1480\n"),
        (file("in2_label"), "VDD_CPU_GPU_CV\n"),
        (file("in2_input"), "5000\n"),
        (file("curr2_input"), "400\n"),
        (file("in3_label"), "NC\n"),
        (file("in7_label"), "sum of shunt voltages\n"),
        (file("in7_input"), "99999\n"),
    ];
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (path.as_str(), *text))
        .collect();
    let (scope, source, watts) = power(&tree(&files));
    assert_eq!((scope.as_str(), source), ("VDD_IN", "ina3221"));
    assert!((watts - 7.4).abs() < 1e-9, "{watts}");
}

#[test]
fn agx_orin_has_no_input_rail_and_says_so() {
    let mut files = Vec::new();
    for (device, rails) in [
        // rails of the kernel's tegra234-p3701.dtsi
        ("1-0040", ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]),
        ("1-0041", ["NC", "VDDQ_VDD2_1V8AO", "NC"]),
    ] {
        let base = format!("sys/bus/i2c/devices/{device}");
        files.push((format!("{base}/name"), "ina3221".to_owned()));
        for (n, rail) in rails.iter().enumerate() {
            files.push((
                format!("{base}/hwmon/hwmon3/in{}_label", n + 1),
                (*rail).to_owned(),
            ));
            files.push((
                format!("{base}/hwmon/hwmon3/in{}_input", n + 1),
                "10000".to_owned(),
            ));
            files.push((
                format!("{base}/hwmon/hwmon3/curr{}_input", n + 1),
                "500".to_owned(),
            ));
        }
    }
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    let (scope, _, watts) = power(&tree(&files));
    assert_eq!(scope, "rails-sum");
    assert!((watts - 20.0).abs() < 1e-9, "four rails of 5 W: {watts}");
}

#[test]
fn nano_on_jetpack_4_reports_through_iio() {
    let root = tree(&[
        ("sys/bus/i2c/devices/6-0040/name", "ina3221x\n"),
        (
            "sys/bus/i2c/devices/6-0040/iio:device0/rail_name_0",
            "POM_5V_IN\n",
        ),
        (
            "sys/bus/i2c/devices/6-0040/iio:device0/in_power0_input",
            "2530\n",
        ),
        (
            "sys/bus/i2c/devices/6-0040/iio:device0/rail_name_1",
            "POM_5V_GPU\n",
        ),
        (
            "sys/bus/i2c/devices/6-0040/iio:device0/in_power1_input",
            "700\n",
        ),
    ]);
    let (scope, source, watts) = power(&root);
    assert_eq!((scope.as_str(), source), ("POM_5V_IN", "ina3221"));
    assert!((watts - 2.53).abs() < 1e-9, "{watts}");
}

#[test]
fn thor_reports_microwatts_of_an_ina238() {
    let root = tree(&[
        ("sys/bus/i2c/devices/2-0044/name", "ina238\n"),
        (
            "sys/bus/i2c/devices/2-0044/hwmon/hwmon1/power1_input",
            "41500000\n",
        ),
    ]);
    assert_eq!(power(&root), ("VIN".to_owned(), "ina238", 41.5));
}

#[test]
fn rapl_counts_packages_and_survives_the_wrap_around() {
    let zone = "sys/class/powercap/intel-rapl:0";
    let root = tree(&[
        (&format!("{zone}/name"), "package-0\n"),
        (&format!("{zone}/max_energy_range_uj"), "1000000\n"),
        (&format!("{zone}/energy_uj"), "900000\n"),
        ("sys/class/powercap/intel-rapl:0:0/name", "core\n"),
        ("sys/class/powercap/intel-rapl:0:0/energy_uj", "5\n"),
    ]);
    let mut meter = find(root.path(), None, &mut Vec::new()).unwrap();
    assert_eq!(
        (meter.info().source, meter.info().scope.as_str()),
        ("rapl", "cpu-package")
    );
    let mut spent = |counter: &str| {
        write(root.path(), &format!("{zone}/energy_uj"), counter);
        match meter.read().unwrap() {
            Reading::Energy(Joules(joules)) => joules,
            other => panic!("{other:?}"),
        }
    };
    assert!((spent("950000") - 0.05).abs() < 1e-9);
    assert!((spent("200000") - 0.25).abs() < 1e-9, "wrapped around");
}

#[test]
fn no_sensor_is_no_meter_and_an_unreadable_one_is_named() {
    assert_eq!(meter(&tree(&[("sys/class/thermal/x", "")])), (None, vec![]));
    let zone = "sys/class/powercap/intel-rapl:0";
    let root = tree(&[
        (&format!("{zone}/name"), "package-0\n"),
        (&format!("{zone}/max_energy_range_uj"), "1000000\n"),
    ]);
    // a folder in the file's place: root could read any file
    fs::create_dir_all(root.path().join(zone).join("energy_uj")).unwrap();
    let (found, reasons) = meter(&root);
    assert!(found.is_none());
    assert!(
        reasons[0].contains("energy_uj") && reasons[0].contains("Is a directory"),
        "{reasons:?}"
    );
}

#[test]
fn the_hottest_zone_counts_and_offline_zones_do_not() {
    let root = tree(&[
        ("sys/class/thermal/thermal_zone0/temp", "48500\n"),
        ("sys/class/thermal/thermal_zone1/temp", "-256000\n"),
        ("sys/class/thermal/thermal_zone2/temp", "51250\n"),
        ("sys/class/hwmon/hwmon2/name", "soctherm_oc\n"),
        ("sys/class/hwmon/hwmon2/oc1_event_cnt", "3\n"),
        ("sys/class/hwmon/hwmon2/oc3_event_cnt", "1\n"),
    ]);
    let heat = heat::read(root.path());
    assert_eq!((heat.hottest, heat.throttled), (Some(Celsius(51.25)), 4));
    assert_eq!(heat::read(tree(&[]).path()), vovcam::stats::Heat::default());
}

#[test]
fn a_board_is_read_from_its_device_tree() {
    let root = tree(&[
        (
            "sys/firmware/devicetree/base/model",
            "NVIDIA Jetson Orin Nano Developer Kit\0",
        ),
        (
            "etc/nv_tegra_release",
            "# R36 (release), REVISION: 4.0, GCID: 1, BOARD: generic\n",
        ),
        ("var/lib/nvpmodel/status", "pmode:0000\n"),
        ("etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=15W >\n"),
    ]);
    let board = Board::read(root.path()).unwrap();
    assert_eq!(board.model, "NVIDIA Jetson Orin Nano Developer Kit");
    assert_eq!(
        (board.l4t.as_deref(), board.power_mode.as_deref()),
        (Some("R36.4.0"), Some("15W"))
    );
    assert_eq!(Board::read(tree(&[]).path()), None);
}
