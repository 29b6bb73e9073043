(function () {
  "use strict";
  var doc = document, body = doc.body, all = function (where, what) { return Array.prototype.slice.call(where.querySelectorAll(what)); };
  var data = JSON.parse(doc.getElementById("details").textContent);
  doc.documentElement.classList.add("js");

  // The age of the page, by the reader's clock.
  var made = Number(body.dataset.made), stale = Number(body.dataset.stale), ageText = doc.getElementById("age").textContent;
  function span(ms) {
    var minutes = Math.floor(ms / 60000);
    if (minutes < 1) { return "less than a minute"; }
    if (minutes < 120) { return minutes + (minutes === 1 ? " minute" : " minutes"); }
    return minutes < 2880 ? Math.floor(minutes / 60) + " hours" : Math.floor(minutes / 1440) + " days";
  }
  function age() {
    var now = Date.now(), old = doc.getElementById("old"), late = stale > 0 && now > stale;
    doc.getElementById("age").textContent = ageText + ", " + (now < made - 60000 ? "but this clock is behind" : span(now - made) + " ago");
    if (late) { old.textContent = "This page is " + span(now - made) + " old: no run has written it. Is cron running?"; }
    old.hidden = !late;
  }
  age();
  setInterval(age, 30000);
  setInterval(function () {
    if (!doc.hidden && !dialog.open && doc.activeElement === body) { location.reload(); }
  }, 120000);

  // Copy a command.
  function copyText(text, done) {
    function old() {
      var area = doc.createElement("textarea"), before = doc.activeElement;
      area.value = text;
      (dialog.open ? dialog : body).appendChild(area);
      area.select();
      var ok = doc.execCommand("copy");
      area.remove();
      if (before) { before.focus(); }
      done(ok);
    }
    if (navigator.clipboard) { navigator.clipboard.writeText(text).then(function () { done(true); }, old); } else { old(); }
  }
  function bindCopy(button) {
    button.hidden = false;
    button.addEventListener("click", function () {
      copyText(button.parentNode.querySelector("code").textContent, function (ok) {
        button.textContent = ok ? "Copied" : "Not copied";
        setTimeout(function () { button.textContent = "Copy"; }, 2000);
      });
    });
  }
  all(doc, ".copy").forEach(bindCopy);

  // The details of a cell.
  var dialog = doc.getElementById("cell");
  function make(name, text) { var made = doc.createElement(name); made.textContent = text; return made; }
  function quote(word) { return /^[A-Za-z0-9_.\/:@%+=,-]+$/.test(word) ? word : "'" + word.replace(/'/g, "'\"'\"'") + "'"; }
  function addCommand(box, title, words) {
    var row = doc.createElement("div"), button = make("button", "Copy");
    row.className = "cmd";
    button.type = "button";
    button.setAttribute("aria-label", "Copy: " + title);
    row.appendChild(make("code", words.concat(["--project", data.root]).map(quote).join(" ")));
    row.appendChild(button);
    box.appendChild(make("p", title));
    box.appendChild(row);
    bindCopy(button);
  }
  function letterOf(cell) { return cell.textContent.trim().slice(-1); }
  function dayOf(cell) { return cell.closest("table").tHead.rows[0].cells[cell.cellIndex].dataset.d; }
  function open(cell) {
    var row = cell.parentNode.dataset, day = dayOf(cell), letter = letterOf(cell), words = data.letters[letter] || letter;
    var list = dialog.querySelector("dl"), box = dialog.querySelector(".cmds"), found = data.sessions[cell.dataset.i];
    doc.getElementById("cell-title").textContent = [row.l, row.s || row.c, day].filter(Boolean).join(" · ");
    list.textContent = box.textContent = "";
    function fact(name, value) { if (value !== "" && value != null) { list.appendChild(make("dt", name)); list.appendChild(make("dd", String(value))); } }
    fact("State", letter + " " + words);
    fact("Server", row.c);
    fact("Started", found ? found[2] : cell.dataset.t);
    if (found) { fact("Ended", found[3]); fact("Attempt", found[1]); fact("Session", cell.dataset.i); fact("Run", found[0]); }
    function text(place) { return found && found[place] >= 0 ? data.texts[found[place]] : ""; }
    function fold(id, content) {
      var box = doc.getElementById(id);
      box.hidden = !content;
      box.querySelector("pre").textContent = content;
    }
    dialog.querySelector(".why").textContent = text(4);
    fold("cell-log", text(5));
    fold("cell-sql", text(6) + text(7));
    if (row.s) {
      if (letter !== "-" && letter !== "/") { addCommand(box, "Load it again", ["dwhctl", "load", row.l, "--date", day, "--shard", row.s]); }
      addCommand(box, "The whole SQL", ["dwhctl", "render", row.l, "--date", day, "--shard", row.s]);
      if (found) { addCommand(box, "The whole log", ["dwhctl", "report", "log", found[0], "--session", cell.dataset.i]); }
      addCommand(box, "Its sessions", ["dwhctl", "report", "sessions", "--load", row.l, "--shard", row.s]);
    } else if (row.l) {
      addCommand(box, "Its shards", ["dwhctl", "report", "grid", row.l, "--no-fold"]);
    }
    if (dialog.showModal) { dialog.showModal(); }
  }
  dialog.addEventListener("click", function (event) { if (event.target === dialog) { dialog.close(); } });

  // The grid: click or Enter opens a cell, arrows move. One cell of each table is in the order of Tab.
  all(doc, ".grid").forEach(function (table) {
    var current = null;
    function enter(cell, focus) {
      if (current) { current.tabIndex = -1; }
      current = cell;
      cell.tabIndex = 0;
      cell.setAttribute("aria-label", cell.parentNode.dataset.s + " " + dayOf(cell) + ": " + (data.letters[letterOf(cell)] || cell.textContent));
      if (focus) { cell.focus(); }
    }
    all(table, "td a").forEach(function (link) { link.tabIndex = -1; });
    if (table.tBodies[0].rows.length) { enter(table.tBodies[0].rows[0].cells[1], false); }
    table.addEventListener("click", function (event) {
      var cell = event.target.closest("td");
      if (cell) { event.preventDefault(); enter(cell, true); open(cell); }
    });
    table.addEventListener("keydown", function (event) {
      var cell = event.target.closest("td"), row = cell && cell.parentNode, next = null;
      if (!cell) { return; }
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(cell); return; }
      if (event.key === "ArrowRight") { next = cell.nextElementSibling; }
      if (event.key === "ArrowLeft") { next = cell.cellIndex > 1 ? cell.previousElementSibling : null; }
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        do { row = event.key === "ArrowDown" ? row.nextElementSibling : row.previousElementSibling; } while (row && row.hidden);
        next = row && row.cells[cell.cellIndex];
      }
      if (next) { event.preventDefault(); enter(next, true); }
    });
  });

  // The filter, kept in the address.
  var form = doc.getElementById("filter"), fields = ["load", "shard", "state"];
  form.hidden = false;
  function pattern(text) {
    var parts = text.toLowerCase().split("*").map(function (part) { return part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"); });
    return new RegExp(text.indexOf("*") < 0 ? parts[0] : "^" + parts.join(".*") + "$");
  }
  function fits(item, load, shard, state) {
    var of = item.dataset;
    if (load && of.l && of.l !== load) { return false; }
    if (shard && !(of.s || "").toLowerCase().split(" ").some(function (name) { return shard.test(name); })) { return false; }
    if (state === "bad") { return of.z === "bad" || /[FAMUE?f]/.test(of.z); }
    return !state || !of.z || of.z === "bad" || of.z.indexOf(state) >= 0;
  }
  function apply() {
    var load = form.elements.load.value, text = form.elements.shard.value.trim(), state = form.elements.state.value;
    var shard = text ? pattern(text) : null, shown = 0, any = load || text || state;
    all(doc, "[data-l]").forEach(function (item) {
      item.hidden = !fits(item, load, shard, state);
      if (!item.hidden && item.tagName === "TR" && item.dataset.s) { shown += 1; }
    });
    all(doc, ".fine").forEach(function (fold) { fold.open = Boolean(any && fold.querySelector("tbody tr:not([hidden])")); });
    form.querySelector("[type=reset]").hidden = !any;
    doc.getElementById("count").textContent = any ? shown + " lines" : "";
  }
  function keep() {
    var kept = fields.map(function (name) { var value = form.elements[name].value; return value ? name + "=" + encodeURIComponent(value) : ""; }).filter(Boolean);
    history.replaceState(null, "", kept.length ? "#" + kept.join("&") : location.pathname + location.search);
    apply();
  }
  function take() {
    if (location.hash.indexOf("=") < 0) { return; }
    location.hash.slice(1).split("&").forEach(function (pair) {
      var name = pair.split("=")[0];
      if (fields.indexOf(name) < 0) { return; }
      try { form.elements[name].value = decodeURIComponent(pair.slice(name.length + 1)); } catch (error) { return; }
    });
    apply();
  }
  form.addEventListener("input", keep);
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  form.addEventListener("reset", function () { setTimeout(keep, 0); });
  window.addEventListener("hashchange", take);
  take();
})();
