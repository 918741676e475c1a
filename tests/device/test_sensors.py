"""What a board tells of itself while it works, from the real outputs of real boards."""

from pathlib import Path

import pytest

from device.sensors import Watch, clock, memory, over, pmic_power, rail_power

PI_5_IDLE = """
 3V7_WL_SW_A current(0)=0.07709848A
   3V3_SYS_A current(1)=0.04782057A
   1V8_SYS_A current(2)=0.11515970A
  DDR_VDD2_A current(3)=0.00780744A
  DDR_VDDQ_A current(4)=0.00000000A
   1V1_SYS_A current(5)=0.17664330A
    0V8_SW_A current(6)=0.33084030A
  VDD_CORE_A current(7)=0.94657990A
 3V7_WL_SW_V volt(8)=3.69049700V
   3V3_SYS_V volt(9)=3.29982600V
   1V8_SYS_V volt(10)=1.79633500V
  DDR_VDD2_V volt(11)=1.10805800V
  DDR_VDDQ_V volt(12)=0.60329610V
   1V1_SYS_V volt(13)=1.10146400V
    0V8_SW_V volt(14)=0.80219700V
  VDD_CORE_V volt(15)=0.72097620V
     EXT5V_V volt(24)=5.11478000V
"""
"""`vcgencmd pmic_read_adc` of an idle Pi 5; EXT5V has a voltage and no current."""
BEFORE = {
    "busy": 1000,
    "stolen": 10,
    "all": 4000,
    "own": 200,
    "major_faults": 3,
    "cpu": 0,
    "memory": 0,
    "io": None,
}


def test_a_pi_5_tells_its_power_by_its_rails() -> None:
    watts = pmic_power(PI_5_IDLE)
    rails = (
        0.07709848 * 3.690497 + 0.04782057 * 3.299826 + 0.1151597 * 1.796335 + 0.00780744 * 1.108058
    )
    rails += 0.1766433 * 1.101464 + 0.3308403 * 0.802197 + 0.9465799 * 0.7209762
    assert watts == pytest.approx(rails * 1.1451 + 0.5879, abs=0.01)


@pytest.mark.parametrize(
    "text", ["", 'error=1 error_msg="Command not registered"\n', "EXT5V_V volt(24)=5.1V\n"]
)
def test_another_pi_has_no_power_sensor_and_none_is_made_up(text: str) -> None:
    assert pmic_power(text) is None


def test_a_jetson_tells_the_power_of_the_rail_that_feeds_it() -> None:
    monitor = {
        "in1_label": "VDD_IN",
        "in1_input": "5096",
        "curr1_input": "976",
        "in2_label": "VDD_CPU_GPU_CV",
        "in2_input": "5096",
    }
    files = {f"/hw/{name}": f"{value}\n" for name, value in monitor.items()}
    assert rail_power([Path("/other"), Path("/hw")], lambda path: files.get(path, "")) == 4.97
    assert rail_power([Path("/other")], lambda path: files.get(path, "")) is None


def test_the_clock_is_that_of_the_fastest_core() -> None:
    files = {"/cpu0": "1800000\n", "/cpu4": "2208000\n", "/cpu5": ""}
    assert clock([Path(name) for name in files], lambda path: files[path]) == 2208
    assert clock([], lambda path: "") is None


def test_a_run_that_was_alone_is_not_called_contended() -> None:
    after = {**BEFORE, "busy": 1500, "own": 690, "all": 5000, "major_faults": 5, "cpu": 100_000}
    found = over(BEFORE, after, 10.0)
    assert (found["contended"], found["major_faults"]) == ([], 2)
    assert found["pressure"] == {"cpu": 0.01, "memory": 0.0, "io": None}


def test_other_programs_and_a_host_that_takes_time_are_named() -> None:
    busy = over(BEFORE, {**BEFORE, "busy": 1900, "own": 300, "all": 5000}, 10.0)
    assert busy["contended"] == ["other programs took 80% of the processors"]
    stolen = over(BEFORE, {**BEFORE, "stolen": 110, "all": 5000}, 10.0)
    assert stolen["contended"] == ["the machine below took 10%"]


def test_a_watch_samples_from_its_beginning_to_its_end() -> None:
    with Watch(every_s=0.01) as watch:
        while len(watch.samples) < 3:
            continue
    assert [sample["at_s"] for sample in watch.samples] == sorted(
        sample["at_s"] for sample in watch.samples
    )
    assert set(watch.samples[0]) == {"at_s", "temperature_c", "clock_mhz", "throttled", "power_w"}
    count = len(watch.samples)
    assert (
        watch.over()["pressure"].keys() == {"cpu", "memory", "io"} and len(watch.samples) == count
    )


def test_memory_is_that_of_this_process() -> None:
    assert memory()["peak_rss_bytes"] > 10 << 20
