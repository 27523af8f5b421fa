// Paired tests of two cells on the prompts they share, as asft/report/statistics.py makes them for tables.
"use strict";
Asft.statistics = (() => {
  const RESAMPLES = 20000;

  /** Two-sided binomial test of `k` out of `n` fair coins. */
  function fairCoins(k, n) {
    if (n === 0) return 1;
    const logs = [0];
    for (let i = 1; i <= n; i++) logs.push(logs[i - 1] + Math.log(i));
    let tail = 0;
    for (let i = 0; i <= Math.min(k, n - k); i++) tail += Math.exp(logs[n] - logs[i] - logs[n - i] - n * Math.LN2);
    return Math.min(1, 2 * tail); // the distribution is symmetric; the middle would be counted twice
  }

  /** Mulberry32: a small generator with a fixed seed, so that a page shows the same p-value every time. */
  function generator(state) {
    return () => {
      state = (state + 0x6d2b79f5) | 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  /** Two-sided bootstrap p-value of mean zero; one draw is added to each tail. */
  function bootstrap(differences) {
    const random = generator(0);
    const n = differences.length;
    let below = 0;
    let above = 0;
    for (let draw = 0; draw < RESAMPLES; draw++) {
      let sum = 0;
      for (let i = 0; i < n; i++) sum += differences[Math.floor(random() * n)];
      below += sum <= 0;
      above += sum >= 0;
    }
    return Math.min(1, (2 * (Math.min(below, above) + 1)) / (RESAMPLES + 1));
  }

  /** The difference A − B in points over `pairs` of scores in [0, 1]: McNemar's exact test, else a bootstrap. */
  function paired(pairs) {
    const differences = pairs.map(([a, b]) => a - b);
    const difference = (100 * differences.reduce((sum, d) => sum + d, 0)) / pairs.length;
    if (pairs.flat().every((score) => score === 0 || score === 1)) {
      const first = differences.filter((d) => d > 0).length;
      const second = differences.filter((d) => d < 0).length;
      return { difference, p: fairCoins(first, first + second), n: pairs.length, test: "McNemar exact" };
    }
    return { difference, p: bootstrap(differences), n: pairs.length, test: "paired bootstrap" };
  }

  const words = (p) => (p < 0.001 ? "< 0.001" : p.toFixed(3));

  return { paired, words };
})();
