"""The page: one HTML file that shows what fails, what is missing and how fast loads are, complete in itself.

Read in this order:
- `data`: what is shown, as typed objects, read from the sessions of a project. `failing`: its problems and gaps.
- `grid`: the lines of the grid, folded where there are many. `words`: the sentence on top, and when the page is old.
- `render`: the HTML from `templates/`, its Content-Security-Policy, and the file.
- `server` shows the page over HTTP.
Data comes from the sessions table, the configuration and the run logs of this machine; no source is asked.
"""
