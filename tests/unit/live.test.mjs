// The pure parts of the live views' scripts; the page itself is tested in a browser.
import assert from "node:assert/strict";
import { test } from "node:test";
import { age, lagged, silence } from "./live.mjs";
import { begin, extended, extent, steps, ticks } from "./plot.mjs";
import { changedKeys, position, refusals, resorted } from "./table.mjs";
import { kindOf, placeOf } from "./timeline.mjs";

test("an age is in one unit", () => {
  const ages = [[0, "0 s"], [59_999, "59 s"], [60_000, "1 min"], [7_199_000, "1 h"], [9e10, "1,041 d"]];
  for (const [past, words] of ages) assert.equal(age(1e12, 1e12 + past), words);
  assert.equal(age(1e12, 0), "0 s");
  assert.equal(age(null, 0), "");
});

test("a lag is in milliseconds or seconds", () => {
  assert.deepEqual([null, 3.4, 2_345].map(lagged), ["", "lag 3 ms", "lag 2.3 s"]);
});

test("a kernel that has not been heard for long is not live", () => {
  assert.equal(silence(1e12, 1e12 + 14_999), "");
  assert.match(silence(1e12, 1e12 + 120_000), /^not live: .* for 2 min$/);
});

test("what did not validate has a line each, and one for the rest", () => {
  const rejected = [["pool", "not an integer"], ["", "broken"]];
  assert.deepEqual(refusals({ rejected, refusals: 2 }), ["rejected: pool: not an integer", "rejected: broken"]);
  assert.equal(refusals({ rejected, refusals: 1_002 }).at(-1), "… and 1,000 more");
  assert.deepEqual(refusals({ rejected: [], refusals: 0 }), []);
});

test("rows that have another stamp have changed", () => {
  const row = (key, stamp) => [key, stamp, 0, []];
  const before = new Map([["a", 0], ["b", 5], ["c", 5]]);
  assert.deepEqual(changedKeys(before, [row("a", 7), row("b", 5), row("c", 6)]), ["a", "c"]);
  assert.deepEqual(changedKeys(before, [row("new", 7), row("old", 0)]), ["new"]);
});

test("the position says where a page is", () => {
  assert.equal(position({ first: 25 }, 25, 100_000, 100_000), "26–50 of 100,000");
  assert.equal(position({ first: 0 }, 3, 3, 60), "1–3 of 3 (60 in all)");
  assert.equal(position({ first: 0 }, 0, 0, 60), "none of 60");
  assert.equal(position({ first: 0 }, 0, 0, 0), "no keys");
});

test("a heading that is clicked again turns the order round", () => {
  const asked = { sort: "key", down: false, filter: "x", first: 50 };
  assert.deepEqual(resorted(asked, "age"), { sort: "age", down: false, filter: "x", first: 0 });
  assert.equal(resorted(asked, "key").down, true);
});

test("points are kept for the window, and one that says what held before", () => {
  const points = [[1, 10], [2, 20], [3, 30]];
  assert.deepEqual(extended(points, [[4, 40]], 3.5), [[3, 30], [4, 40]]);
  assert.deepEqual(extended([], [], 0), []);
});

test("a value holds until the next one comes, and a gap is a gap", () => {
  const line = steps([[1, 10], [2, 20], [3, null]], 4);
  assert.deepEqual(line, [[1, 10], [2, 10], [2, 20], [3, 20], [3, null]]);
  assert.deepEqual(steps([[1, 10]], 4), [[1, 10], [4, 10]]);
});

test("the axis has room, and round numbers", () => {
  assert.equal(extent({ a: [[1, null]] }), null);
  const [low, high] = extent({ a: [[1, 5]], b: [] });
  assert.ok(low < 5 && high > 5);
  assert.deepEqual(ticks(0.96, 1.24, 5), [1, 1.1, 1.2]);
  assert.deepEqual(ticks(-3, 3, 3), [-2, 0, 2]);
});

test("the time axis begins with the first point until the window is full", () => {
  const now = 1_000_000;
  assert.equal(begin({ a: [[now - 60_000, 1]] }, 300_000, now), now - 60_000);
  assert.equal(begin({ a: [[now - 600_000, 1]] }, 300_000, now), now - 300_000);
  assert.equal(begin({}, 300_000, now), now - 10_000);
});

test("a revision that is gone is the newest one", () => {
  const revisions = [{ id: "a" }, { id: "b" }];
  assert.deepEqual(["a", "b", null, "x"].map((id) => placeOf(revisions, id)), [0, 1, 1, 1]);
  assert.deepEqual(["+", "-", "@", " "].map(kindOf), ["ds-added", "ds-removed", "ds-dim", ""]);
});
